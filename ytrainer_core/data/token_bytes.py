"""Token ids, and which tokens a stretch of text became.

A tokenizer tells the characters of each token if it is asked to, which costs a fifth of its time
and more to take the answer apart. Tokens of a byte-level vocabulary stand for bytes, so that their
lengths say the same; where they do not add up to the text, the tokenizer is asked after all.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Encoded = tuple[list[int], list[Span]]
"""Token ids, and [begin, end) in tokens of the spans that were asked for."""

_Lengths = npt.NDArray[np.int64]


def encode_spans(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded]:
    """Encode texts without adding tokens, and find spans of characters among their tokens.

    texts, spans: [texts]; the spans of a text ascend. A token that holds a span's first or last
    character belongs to it. What has no token is left out.
    """
    lengths = _byte_lengths(tokenizer)
    if lengths is None:
        return _by_offsets(texts, spans, tokenizer)
    return [
        encoded if encoded is not None else _by_offsets([text], [own], tokenizer)[0]
        for text, own, encoded in zip(
            texts, spans, _by_bytes(texts, spans, tokenizer, lengths), strict=True
        )
    ]


def flattened(lists: Sequence[list[int]]) -> npt.NDArray[np.int32]:
    """[elements] of all lists, one after the other."""
    # An array takes a list in a third of the time that numpy needs.
    flat = array("i")
    for one in lists:
        flat.fromlist(one)
    return np.frombuffer(flat, np.int32)


# --- asking the tokenizer ------------------------------------------------------------------------


def _by_offsets(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded]:
    tokens = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return [
        (ids, [*_token_spans(encoding, own, len(ids))])
        for ids, encoding, own in zip(tokens["input_ids"], tokens.encodings, spans, strict=True)
    ]


def _token_spans(encoding: Any, spans: Sequence[Span], tokens: int) -> Iterator[Span]:
    for begin, end in spans:
        first = encoding.char_to_token(begin)
        if first is None:
            return
        last = encoding.char_to_token(end - 1) if end > begin else first - 1
        after = tokens if last is None else last + 1
        if first < after:
            yield first, after


# --- counting bytes ------------------------------------------------------------------------------

_tables: WeakKeyDictionary[Any, tuple[int, _Lengths]] = WeakKeyDictionary()
"""Of each tokenizer: its number of tokens, and their lengths."""


def _byte_lengths(tokenizer: PreTrainedTokenizerBase) -> _Lengths | None:
    """[vocabulary] bytes that each token stands for, or None where tokens stand for none."""
    backend = tokenizer.backend_tokenizer
    byte_level = type(backend.decoder).__name__ == "ByteLevel"
    if not byte_level or type(backend.normalizer).__name__ not in ("NoneType", "NFC"):
        return None
    size, table = _tables.get(tokenizer, (0, np.empty(0, np.int64)))
    if size != len(tokenizer):
        vocabulary = tokenizer.get_vocab()
        table = np.zeros(max(vocabulary.values(), default=-1) + 1, np.int64)
        # Such a vocabulary writes one character for each byte.
        table[list(vocabulary.values())] = [len(token) for token in vocabulary]
        for number, token in tokenizer.added_tokens_decoder.items():
            table[number] = len(token.content.encode())
        _tables[tokenizer] = len(tokenizer), table
    return table


def _by_bytes(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    tokenizer: PreTrainedTokenizerBase,
    lengths: _Lengths,
) -> Iterator[Encoded | None]:
    """Each text encoded; None where the bytes of its tokens are not those of the text."""
    backend = tokenizer.backend_tokenizer
    if backend.padding or backend.truncation:  # asked first, for another thread may be encoding
        backend.no_padding()
        backend.no_truncation()
    ids = [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    counts = np.fromiter(map(len, ids), np.int64, len(ids))
    ends = lengths[flattened(ids)].cumsum()  # [tokens of all texts] bytes up to the end of each
    first = np.concatenate([[0], counts.cumsum()])  # [texts + 1] number of a text's first token
    base = np.concatenate([[0], ends])[first]  # [texts + 1] bytes before a text
    places = [_Places(text) for text in texts]
    own = [
        [s for s in part if s[0] < s[1] <= len(text)]
        for part, text in zip(spans, texts, strict=True)
    ]
    bounds = np.array(
        [
            (base[i] + places[i].at(begin), base[i] + places[i].at(end) - 1)
            for i, part in enumerate(own)
            for begin, end in part
        ],
        np.int64,
    ).reshape(-1, 2)
    found = iter(np.searchsorted(ends, bounds, side="right").tolist())
    sizes = np.diff(base).tolist()
    for i, part in enumerate(own):
        begun = int(first[i])
        within = [(begin - begun, last + 1 - begun) for begin, last in (next(found) for _ in part)]
        yield (ids[i], within) if places[i].size == sizes[i] else None


class _Places:
    """From characters of one text to its bytes."""

    def __init__(self, text: str) -> None:
        self._text, self._ascii = text, text.isascii()
        composed = self._ascii or unicodedata.is_normalized("NFC", text)
        self.size = self.at(len(text)) if composed else -1

    def at(self, character: int) -> int:
        """Bytes before a character."""
        if self._ascii:
            return character
        return len(self._text[:character].encode("utf-8", "surrogatepass"))
