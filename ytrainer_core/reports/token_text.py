"""The text of every token of a row, so that the texts joined read as the row does.

Tokens decoded one by one do not: a character whose bytes lie in two tokens becomes two
replacement characters, and some tokenizers drop the space that a word begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no character."""

_LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character: no more tokens than that can share one."""


def token_texts(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[str]:
    """Give each token's text; a character that lies in several tokens belongs to the first.

    decode: the tokenizer's, special tokens kept. ids: [tokens]. Returns [tokens] strings, "" for
    tokens that only end a character. Bytes that are no UTF-8 at all stay replacement characters.
    """
    ids = list(ids)
    alone = {token: decode([token]) for token in dict.fromkeys(ids)}
    texts = [alone[token] for token in ids]
    return texts if "".join(texts) == decode(ids) else _in_context(decode, ids)


def _in_context(decode: Callable[[Sequence[int]], str], ids: list[int]) -> list[str]:
    """What each token adds to the text of the tokens before it."""
    texts = [""] * len(ids)
    before = start = 0  # ids[before:start] are shown already, ids[start:end] wait
    for end in range(1, len(ids) + 1):
        text = decode(ids[before:end])
        unfinished = text.endswith(REPLACEMENT) and end - start < _LONGEST_CHARACTER
        if unfinished and end < len(ids):
            continue
        texts[start] = text[len(decode(ids[before:start])) :]
        before, start = start, end
    return texts
