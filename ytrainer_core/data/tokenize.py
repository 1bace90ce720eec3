"""Rows become token ids and labels, and only what the model shall learn to say carries a label.

In a conversation that is every assistant turn with the token that ends it, and nothing else: no
header, no user, system or tool text, not the newline that a template prints after the end token.
Where the template marks answers with {% generation %} the mark is used; elsewhere answers are found
by printing the conversation up to each of them. Both give the same labels.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ytrainer_core import files
from ytrainer_core.config.base import as_mapping
from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.corpus import digest_of
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.data.token_bytes import Span, encode_spans, flattened
from ytrainer_core.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

# Rows tokenized together: enough that a fast tokenizer uses all cores, small enough for memory.
BATCH_ROWS = 256
# Part of every cache key; raise it when the same input gives other labels than before.
_CACHE_VERSION = 2
# Origins named in one message.
_NAMED_ORIGINS = 5

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_THINK = "<think>"
_END_THINK = "</think>"

Messages = Sequence[Mapping[str, Any]]
"""Turns with role, content and, where an answer is not to be trained, trained=False."""

Chat = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One row as the model sees it.

    input_ids: [tokens]. trained: [begin, end) of the runs of tokens that carry a label, ascending;
    never the first token, since nothing predicts it.
    """

    input_ids: list[int]
    trained: list[Span]

    @classmethod
    def of(cls, input_ids: list[int], labels: Sequence[int]) -> Self:
        """A row by its labels, as a data set holds them."""
        return cls(input_ids, [*_runs([label != IGNORED for label in labels])])

    @property
    def labels(self) -> list[int]:
        """[tokens]: the token where it is trained, IGNORED elsewhere; the model shifts them."""
        labels = [IGNORED] * len(self.input_ids)
        for begin, end in self.trained:
            labels[begin:end] = self.input_ids[begin:end]
        return labels

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that carry a label."""
        return sum(end - begin for begin, end in self.trained)


def tokenize_row(
    messages: Messages,
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on: str,
    system_prompt: str,
    add_eos: bool = True,
) -> Tokenized:
    """Tokenize one conversation (messages) or one raw document (text, where messages is empty).

    train_on: "all_turns" or "last_turn" (assistant turns). system_prompt: put before conversations
    that have no system turn; "" adds none. add_eos: end raw text, and answers that the template
    leaves open, with the tokenizer's end-of-sequence token.
    Raises DataError where the tokenizer has no chat template, or its template cannot print the
    conversation or rewrites earlier turns.
    """
    rows = [(messages, text)]
    return tokenize_rows(
        rows, tokenizer, train_on=train_on, system_prompt=system_prompt, add_eos=add_eos
    )[0]


def tokenize_rows(
    rows: Sequence[tuple[Messages, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on: str,
    system_prompt: str,
    add_eos: bool = True,
) -> list[Tokenized]:
    """`tokenize_row` of many rows in one call, which is many times faster."""
    talks = [messages for messages, _ in rows if messages]
    texts = [text for messages, text in rows if not messages]
    talked = iter(
        _tokenize_chats(talks, tokenizer, train_on, system_prompt, add_eos) if talks else ()
    )
    written = iter(_tokenize_texts(texts, tokenizer, add_eos) if texts else ())
    return [next(talked) if messages else next(written) for messages, _ in rows]


def tokenize_configured(
    rows: Sequence[tuple[Messages, str]], tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> list[Tokenized]:
    """`tokenize_rows` with the knobs of a config."""
    return tokenize_rows(
        rows, tokenizer, train_on=config.train_on, system_prompt=config.system_prompt
    )


def truncate(tokenized: Tokenized, max_length: int) -> Tokenized:
    """The first `max_length` tokens of a row."""
    kept = [(begin, min(end, max_length)) for begin, end in tokenized.trained if begin < max_length]
    return Tokenized(tokenized.input_ids[:max_length], kept)


def mask_segments(
    tokenized: Tokenized, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, bool]]:
    """The row decoded in order as (text, trained?) pieces, for people to read."""
    flags = [label != IGNORED for label in tokenized.labels]
    return [
        (_decode(tokenizer, tokenized.input_ids[begin:end]), flags[begin])
        for begin, end in _runs(flags, both=True)
    ]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _with_system(messages: Messages, system_prompt: str) -> Chat:
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    if system_prompt and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system_prompt})
    return turns


# --- raw text ------------------------------------------------------------------------------------


def _tokenize_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, add_eos: bool
) -> list[Tokenized]:
    """Every token but the first is trained, the end-of-sequence token too."""
    eos = tokenizer.eos_token_id
    if add_eos and eos is None:
        raise DataError(
            f"{_called(tokenizer)}: the tokenizer has no end-of-sequence token, so a document "
            "would never end. Set tokenizer.eos_token."
        )
    rows: list[Tokenized] = []
    for ids in tokenizer(list(texts), return_attention_mask=False)["input_ids"]:
        if add_eos and (not ids or ids[-1] != eos):
            ids = [*ids, eos]
        rows.append(Tokenized(ids, [(1, len(ids))] if len(ids) > 1 else []))
    return rows


# --- conversations -------------------------------------------------------------------------------


def require_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template. Raises DataError where it has none, or cannot be used."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{_called(tokenizer)}: the tokenizer has no chat template, so conversations cannot be "
            "printed for it. Name an instruct model in model.name_or_path, or add "
            "tokenizer.chat_template to its tokenizer files; raw text needs none."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{_called(tokenizer)}: the tokenizer is written in Python and cannot tell which "
            "characters a token covers. Use a model that has a tokenizer.json."
        )
    return str(tokenizer.get_chat_template())


def _called(tokenizer: PreTrainedTokenizerBase) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def _tokenize_chats(
    talks: Sequence[Messages],
    tokenizer: PreTrainedTokenizerBase,
    train_on: str,
    system_prompt: str,
    add_eos: bool,
) -> list[Tokenized]:
    chats = [_with_system(messages, system_prompt) for messages in talks]
    marked = _GENERATION_TAG.search(require_chat_template(tokenizer)) is not None
    printed = _answers_by_mark if marked else _answers_by_prefix
    closing = _special_ids(tokenizer)
    rows: list[Tokenized] = []
    for talk, (ids, answers) in zip(talks, printed(chats, tokenizer, train_on), strict=True):
        runs = [_close(run, ids, closing, tokenizer) for run in answers]
        if train_on == "last_turn":
            runs = runs[-1:]
        runs = _without_untrained(runs, talk)
        rows.append(_labelled(ids, runs, closing, tokenizer.eos_token_id if add_eos else None))
    return rows


def _without_untrained(runs: list[Span], talk: Messages) -> list[Span]:
    """The runs of the answers that may be trained; the last run is the last answer's."""
    trained = [turn.get("trained", True) for turn in talk if turn["role"] == "assistant"]
    trained = trained[len(trained) - len(runs) :] if len(runs) == 1 else trained
    if all(trained):
        return runs
    if len(runs) != len(trained):
        raise DataError(
            f"the chat template marks {len(runs)} answers where there are {len(trained)}, so the "
            "ones that are not to be trained cannot be told. Leave out loss and weight, or mend "
            "the template."
        )
    return [run for run, kept in zip(runs, trained, strict=True) if kept]


def _labelled(
    ids: list[int], runs: Sequence[Span], closing: frozenset[int], eos: int | None
) -> Tokenized:
    """Labels on the runs; an answer that ends the row without an end token gets `eos`."""
    trained = [(max(1, begin), end) for begin, end in runs if end > 1]
    open_end = bool(runs) and runs[-1][1] == len(ids) and ids[-1] not in closing
    if open_end and eos is not None:
        begin = trained.pop()[0] if trained else len(ids)
        ids, trained = [*ids, eos], [*trained, (begin, len(ids) + 1)]
    return Tokenized(ids, trained)


def _close(
    run: Span, ids: Sequence[int], closing: frozenset[int], tokenizer: PreTrainedTokenizerBase
) -> Span:
    """End an answer with its end-of-turn token: take in one that follows, cut blanks after one."""
    begin, end = run
    last = next((i for i in range(end - 1, begin - 1, -1) if ids[i] in closing), None)
    if last == end - 1:
        return run
    if last is not None and not _decode(tokenizer, ids[last + 1 : end]).strip():
        return begin, last + 1
    if end < len(ids) and ids[end] in closing:
        return begin, end + 1
    return run


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the control tokens, among them every end-of-turn token."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def _runs(flags: Sequence[object], *, both: bool = False) -> Iterator[Span]:
    """[begin, end) of each run of true flags; of the false ones too where `both`."""
    begin = 0
    for end in range(1, len(flags) + 1):
        if end == len(flags) or bool(flags[end]) != bool(flags[begin]):
            if both or flags[begin]:
                yield begin, end
            begin = end


def _answers_by_mark(
    chats: Sequence[Chat], tokenizer: PreTrainedTokenizerBase, train_on: str
) -> Iterator[tuple[list[int], list[Span]]]:
    """(ids, answers in tokens) of each chat by the template's own {% generation %} marks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    printed, spans = _asking_template(
        lambda: render_jinja_template(
            conversations=list(chats),
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    )
    yield from encode_spans(printed, spans, tokenizer)


def _answers_by_prefix(
    chats: Sequence[Chat], tokenizer: PreTrainedTokenizerBase, train_on: str
) -> Iterator[tuple[list[int], list[Span]]]:
    """(ids, answers in tokens) of each chat by comparing its printed beginnings."""
    printed: list[str] = []
    answers: list[list[Span]] = []
    for chat in chats:
        full, spans = _answer_spans(chat, tokenizer, train_on)
        printed.append(full)
        answers.append(spans)
    tokens = tokenizer(
        printed,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for ids, offsets, spans in zip(
        tokens["input_ids"], tokens["offset_mapping"], answers, strict=True
    ):
        yield ids, [*_runs(_inside(offsets, spans))]


def _inside(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Which tokens begin inside a span of characters. Offsets and spans both ascend."""
    flags: list[bool] = []
    ahead = iter((*spans, None))
    span = next(ahead)
    for begin, _ in offsets:
        while span is not None and begin >= span[1]:
            span = next(ahead)
        flags.append(span is not None and begin >= span[0])
    return flags


def _answer_spans(
    chat: Chat, tokenizer: PreTrainedTokenizerBase, train_on: str
) -> tuple[str, list[Span]]:
    """The printed chat and [begin, end) of each answer in it, in characters.

    What a template prints after the end-of-turn token is still inside; `_close` takes it off.
    """
    full = _print(chat, tokenizer)
    answers = [i for i, turn in enumerate(chat) if turn["role"] == "assistant"]
    if train_on == "last_turn":
        answers = answers[-1:]
    spans: list[Span] = []
    for i in answers:
        begin = _answer_begin(chat, i, full, tokenizer)
        spans.append((begin, _answer_end(chat, i, full, begin, tokenizer)))
    return full, spans


def _answer_begin(chat: Chat, i: int, full: str, tokenizer: PreTrainedTokenizerBase) -> int:
    if i == 0:
        raise DataError("the conversation begins with an answer. Put a user turn before it.")
    head = _print(chat[:i], tokenizer, add_generation_prompt=True)
    if full.startswith(head):
        return len(head)
    # A reasoning template opens <think> for a new answer, but prints earlier answers without.
    header, think, _ = head.rpartition(_THINK)
    if think and full.startswith(header):
        return len(header)
    raise _rewritten(i)


def _answer_end(
    chat: Chat, i: int, full: str, begin: int, tokenizer: PreTrainedTokenizerBase
) -> int:
    alone = full if i + 1 == len(chat) else _print(chat[: i + 1], tokenizer)
    if full.startswith(alone):
        return len(alone)
    # Qwen3 prints a <think> block before the last answer only: what follows it is the same.
    ending = alone[begin:].rpartition(_END_THINK)[2].lstrip("\n")
    if full[:begin] == alone[:begin] and ending and full.startswith(ending, begin):
        return begin + len(ending)
    raise _rewritten(i)


def _rewritten(i: int) -> DataError:
    return DataError(
        f"turn {i + 1}: the chat template prints this answer differently once more turns follow, "
        "so its tokens cannot be found. Set data.train_on=last_turn, or put {% generation %} "
        "marks around the answers in the tokenizer's chat template."
    )


def _print(
    chat: Chat,
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = False,
) -> str:
    return str(
        _asking_template(
            lambda: tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    )


_printing = threading.Lock()
"""Held while a template prints: transformers notes in the template itself where answers begin."""


def _asking_template(call: Callable[[], Any]) -> Any:
    """Run a template; what it refuses becomes a DataError."""
    from jinja2 import TemplateError

    try:
        with _printing:
            return call()
    except (TemplateError, TypeError, KeyError) as error:
        raise DataError(
            f"the chat template refuses the conversation ({error}). Change its roles or their "
            "order to what the model was made for."
        ) from error


# --- a whole split -------------------------------------------------------------------------------


def tokenize_dataset(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> datasets.Dataset:
    """Tokenize every row of a split: origin, input_ids, labels, in the same order.

    The result is a memory-mapped file below home(), named after everything it depends on, so a
    second call with the same rows, tokenizer and config opens it again. Rows over
    `config.max_length` are cut where `on_too_long` is truncate; raw documents stay whole, whoever
    runs a model over them splits them (`packing.split_long`).
    Raises DataError for longer conversations otherwise, and for rows the template cannot print.
    """
    import datasets as hf

    path = token_path(digest_of(dataset), tokenizer, config)
    if not path.exists():
        with token_writer(lambda: path) as write:
            for batch in dataset.iter(BATCH_ROWS):
                write(_token_batch(batch["origin"], _tokenize_batch(batch, tokenizer, config)))
    return hf.Dataset.from_file(str(path))


def token_path(rows: str, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Path:
    """Where the tokens of a split lie. rows: its `digest_of`."""
    key = files.sha256_json(
        {
            "version": _CACHE_VERSION,
            "rows": rows,
            "tokenizer": tokenizer_digest(tokenizer),
            "max_length": config.max_length,
            "on_too_long": config.on_too_long,
            "train_on": config.train_on,
            "system_prompt": config.system_prompt,
        }
    )
    return files.home() / "cache" / "tokens" / f"{key}.arrow"


@contextlib.contextmanager
def token_writer(path: Callable[[], Path]) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Give a function that writes batches with origin, input_ids and labels.

    The file is there under path(), which is asked for in the end, once the block has ended
    without an error.
    """
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    schema = pa.schema({"origin": pa.string(), "input_ids": ids, "labels": ids})
    folder = files.home() / "cache" / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".")
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            yield lambda batch: stream.write_batch(batch.select(schema.names).cast(schema))
        scratch.chmod(0o644)  # mkstemp gives 0600; other users of a shared volume must read
        scratch.replace(path())
    finally:
        scratch.unlink(missing_ok=True)


def _token_batch(origins: Sequence[str], rows: Sequence[Tokenized]) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.record_batch([origins, *token_columns(rows)], names=["origin", "input_ids", "labels"])


def token_columns(rows: Sequence[Tokenized]) -> tuple[pa.Array, pa.Array]:
    """Columns (input_ids, labels) of rows, many times faster than element by element."""
    import pyarrow as pa

    begins = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row.input_ids) for row in rows], out=begins[1:])
    ids = flattened([row.input_ids for row in rows])
    labels = np.full_like(ids, IGNORED)
    for at, row in zip(begins.tolist(), rows, strict=False):
        for begin, end in row.trained:
            labels[at + begin : at + end] = ids[at + begin : at + end]
    offsets = pa.array(begins)
    return tuple(pa.ListArray.from_arrays(offsets, pa.array(flat)) for flat in (ids, labels))


def _tokenize_batch(
    batch: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> list[Tokenized]:
    pairs = list(zip(batch["messages"], batch["text"], strict=True))
    try:
        rows = tokenize_configured(pairs, tokenizer, config)
    except DataError:
        rows = [
            _located(origin, pair, tokenizer, config)
            for origin, pair in zip(batch["origin"], pairs, strict=True)
        ]
    strict = as_mapping(config.rules).get("too_long", "error") == "error"
    if config.on_too_long == "drop" and strict:
        _refuse_long(batch, rows, config)
    if config.on_too_long != "truncate":
        return rows
    return [
        truncate(row, config.max_length) if messages else row
        for row, (messages, _) in zip(rows, pairs, strict=True)
    ]


def _located(
    origin: str,
    pair: tuple[Messages, str],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
) -> Tokenized:
    try:
        return tokenize_configured([pair], tokenizer, config)[0]
    except DataError as error:
        raise DataError(f"{origin}: {error}") from error


def _refuse_long(
    batch: Mapping[str, Sequence[Any]], rows: Sequence[Tokenized], config: DataConfig
) -> None:
    long = [
        origin
        for origin, messages, row in zip(batch["origin"], batch["messages"], rows, strict=True)
        if messages and len(row.input_ids) > config.max_length
    ]
    if long:
        raise DataError(
            f"{', '.join(long[:_NAMED_ORIGINS])}: longer than data.max_length={config.max_length} "
            "tokens. Validate the corpus with this model's tokenizer, so that such rows are "
            "quarantined, or set data.on_too_long=truncate, or raise data.max_length."
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identity of a tokenizer: vocabulary, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return files.sha256_json([vocabulary, names, tokenizer.chat_template])
