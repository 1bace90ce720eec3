"""One shard: rows that were parsed, judged, tokenized and fingerprinted together, as an Arrow file.

Whatever is known of a row lies beside it in its columns.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import RULES, RuleBook
from ytrainer_core.data.compare import BANDS, NEAR_RULES, Fingerprint, fingerprint
from ytrainer_core.data.corpus import messages_of, row_columns, row_schema
from ytrainer_core.data.formats import Rejected, Row
from ytrainer_core.data.reader import RawRow, parse_raw
from ytrainer_core.data.tokenize import (
    Tokenized,
    require_chat_template,
    token_columns,
    tokenize_configured,
    truncate,
)
from ytrainer_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

DIGEST_BYTES = 16
RULE_NUMBERS = {name: number for number, name in enumerate(RULES)}
"""Numbers by which shards name rules; a warning is bit n of `warnings`."""

KINDS = ("rejected", "text", "conversation", "prompt", "preference", "good", "bad")
"""What a row is: Row.kind, with kto told apart by its label."""

UNKNOWN = -1
"""Number of tokens of a row that was not tokenized, and of the rule of a clean row."""


def shard_schema() -> pa.Schema:
    """A row's columns, and what is known of it.

    raw: as it stood in the file. rule, reason: empty where it is clean. warnings: a bit for each
    rule of RULES; notes: 'rule: reason' of each. kind: a number in KINDS. whole, prompt, bands: its
    fingerprint. length, targets: tokens, -1 without a tokenizer. system: a number equal for equal
    system turns.
    """
    import pyarrow as pa

    digest = pa.binary(DIGEST_BYTES)
    return pa.schema(
        [
            *row_schema(),
            pa.field("raw", pa.string()),
            pa.field("rule", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("warnings", pa.uint64()),
            pa.field("notes", pa.list_(pa.string())),
            pa.field("shape", pa.string()),
            pa.field("kind", pa.uint8()),
            pa.field("whole", digest),
            pa.field("prompt", digest),
            pa.field("bands", pa.list_(pa.uint64(), BANDS)),
            pa.field("length", pa.int32()),
            pa.field("targets", pa.int32()),
            pa.field("characters", pa.int32()),
            pa.field("system", pa.uint64()),
            pa.field("input_ids", pa.list_(pa.int32())),
            pa.field("labels", pa.list_(pa.int32())),
        ]
    )


class Checker:
    """Turns raw rows into a shard; picklable, and made once in every process.

    tokenizer: the model's, for the rules about tokens; None leaves them out. measured: the rows
    are measured and never trained, so a longer row's beginning serves as well as all of it.
    """

    def __init__(
        self, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, *, measured: bool
    ) -> None:
        special = tuple(tokenizer.all_special_tokens) if tokenizer is not None else ()
        self._rules = RuleBook(config, special)
        self._config, self._tokenizer = config, tokenizer
        self._cut = config.on_too_long == "truncate" or measured

    def write(self, source: str, raws: Sequence[RawRow], path: Path) -> None:
        """Check rows of one source and write their shard."""
        with _garbage_kept():
            _write_shard(path, self._checked(source, raws))

    def _checked(self, source: str, raws: Sequence[RawRow]) -> list[_Checked]:
        checked = [
            _Checked(row, shape or "", raw.raw)
            for raw in raws
            for row, shape in [parse_raw(source, raw, self._config)]
            if row is not None
        ]
        for one in checked:
            self._judge(one)
        if self._tokenizer is not None:
            self._tokenize([one for one in checked if isinstance(one.row, Row)])
        near = any(self._rules.severity(rule) != "off" for rule in NEAR_RULES)
        for one in checked:
            if isinstance(one.row, Row):
                one.fingerprint = fingerprint(one.row, near=near)
        return checked

    def _judge(self, one: _Checked) -> None:
        if isinstance(one.row, Rejected):
            return
        judged = self._rules.judge(one.row)
        one.warn(*judged.warnings)
        if judged.error:
            one.reject(*judged.error)

    def _tokenize(self, rows: Sequence[_Checked]) -> None:
        """Tokenize what is clean so far, and apply the rules about tokens."""
        assert self._tokenizer is not None
        if any(_row(one).turns for one in rows):
            require_chat_template(self._tokenizer)
        for one, outcome in zip(rows, self._tokens([_row(o) for o in rows]), strict=True):
            if isinstance(outcome, Tokenized):
                self._judge_tokens(one, outcome)
            else:
                self._break(one, "template_refused", str(outcome))

    def _tokens(self, rows: Sequence[Row]) -> list[Tokenized | DataError]:
        """Each row's tokens, or why it has none."""
        assert self._tokenizer is not None
        pairs = [(messages_of(row.turns), row.text) for row in rows]
        try:
            return [*tokenize_configured(pairs, self._tokenizer, self._config)]
        except DataError as error:
            if len(rows) == 1:
                return [error]
        return [outcome for row in rows for outcome in self._tokens([row])]

    def _judge_tokens(self, one: _Checked, tokens: Tokenized) -> None:
        length, limit = len(tokens.input_ids), self._config.max_length
        row = _row(one)
        if row.turns and length > limit:  # raw documents are split, not too long
            if self._cut:
                one.warn(("truncated", f"was {length} tokens long and is cut."))
                tokens = truncate(tokens, limit)
            elif self._config.on_too_long == "split":
                one.warn(("split", f"is {length} tokens long and trained in pieces."))
            else:
                self._break(
                    one,
                    "too_long",
                    f"is {length} tokens long, more than data.max_length={limit}. Shorten it, "
                    "raise data.max_length, or set data.on_too_long=truncate or split.",
                )
        one.tokens = tokens
        if not tokens.trained_tokens and row.kind != "prompt":
            self._break(
                one,
                "no_trained_token",
                f"has no token that carries a label (in its first {len(tokens.input_ids)} tokens), "
                "so nothing of it would be trained. Look at it with `ytrainer preview`.",
            )

    def _break(self, one: _Checked, rule: str, reason: str) -> None:
        """A rule about tokens is broken: what follows is its severity's to say."""
        severity = self._rules.severity(rule)
        if severity == "error":
            one.reject(rule, reason)
        elif severity == "warning":
            one.warn((rule, reason))


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """No search for cyclic garbage: a shard's rows make next to none, and each search visits them
    all, which takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class _Checked:
    """A row and what is known of it so far."""

    row: Row | Rejected
    shape: str
    raw: str
    warnings: dict[str, str] = field(default_factory=dict)
    tokens: Tokenized | None = None
    fingerprint: Fingerprint | None = None

    def warn(self, *warnings: tuple[str, str]) -> None:
        self.warnings |= dict(warnings)

    def reject(self, rule: str, reason: str) -> None:
        if isinstance(self.row, Row):
            self.row = Rejected(self.row.origin, rule, reason, self.raw)
            self.tokens = None


def _row(one: _Checked) -> Row:
    assert isinstance(one.row, Row)
    return one.row


def _write_shard(path: Path, checked: Sequence[_Checked]) -> None:
    """Write the shard whole or not at all."""
    import pyarrow as pa

    rows = [one.row if isinstance(one.row, Row) else Row(one.row.origin, ()) for one in checked]
    rejected = [one.row if isinstance(one.row, Rejected) else None for one in checked]
    nothing = Fingerprint.nothing()
    prints = [one.fingerprint or nothing for one in checked]
    input_ids, labels = token_columns([one.tokens or Tokenized([], []) for one in checked])
    columns: dict[str, Any] = row_columns(rows) | {
        "raw": [one.raw for one in checked],
        "rule": [row.rule if row else "" for row in rejected],
        "reason": [row.reason if row else "" for row in rejected],
        "warnings": [sum(1 << RULE_NUMBERS[name] for name in one.warnings) for one in checked],
        "notes": [[f"{rule}: {why}" for rule, why in one.warnings.items()] for one in checked],
        "shape": [one.shape for one in checked],
        "kind": [KINDS.index(_kind(one.row)) for one in checked],
        "whole": [print_.whole for print_ in prints],
        "prompt": [print_.prompt for print_ in prints],
        "bands": _fixed_lists([print_.bands for print_ in prints]),
        "length": [len(one.tokens.input_ids) if one.tokens else UNKNOWN for one in checked],
        "targets": [one.tokens.trained_tokens if one.tokens else UNKNOWN for one in checked],
        "characters": [_characters(row) for row in rows],
        "system": [_system_number(row) for row in rows],
        "input_ids": input_ids,
        "labels": labels,
    }
    schema = shard_schema()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("wb") as file, pa.ipc.new_file(file, schema) as stream:
        stream.write_batch(pa.record_batch([columns[name] for name in schema.names], schema=schema))
    scratch.replace(path)


def _kind(row: Row | Rejected) -> str:
    if isinstance(row, Rejected):
        return "rejected"
    if row.kind == "kto":
        return "good" if row.label else "bad"
    return row.kind


def _characters(row: Row) -> int:
    return len(row.text) + sum(len(turn.content) for turn in row.turns)


def _system_number(row: Row) -> int:
    """Equal for rows with the same system turn; 0 for rows without."""
    if not row.turns or row.turns[0].role != "system":
        return 0
    digest = hashlib.blake2b(row.turns[0].content.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _fixed_lists(lists: Sequence[npt.NDArray[np.uint64]]) -> pa.Array:
    import pyarrow as pa

    flat = np.concatenate(lists) if lists else np.empty(0, np.uint64)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), BANDS)


def read_shard(path: Path) -> pa.RecordBatch:
    """The rows of a shard, memory-mapped as long as the batch is held."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
