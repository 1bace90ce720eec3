"""What the text rules look at, and what they say: the texts of a row, and a fault in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ytrainer_core.data.formats import Row, Turn

# Characters of a secret or of personal data that a reason may show, so that it can be found.
_SHOWN_CHARACTERS = 4

# Every digit becomes a 0, every other byte an x; separators go.
_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else ord("x") for byte in range(256))
_SEPARATORS = b" ()./-"

_WHITE_SPACE = re.compile(r"\s+")


class Found(NamedTuple):
    """A fault in one text. at: its first character, from 0; what: "holds ..."; remedy: a sentence
    (or more) that ends with a full stop."""

    at: int
    what: str
    remedy: str


class Part(NamedTuple):
    """One text of a row. number: of its turn, from 1; 0 for the text of a raw document."""

    text: str
    number: int
    role: str = ""
    rejected: bool = False

    def reason(self, found: Found) -> str:
        """What, where, and how to mend it, as one or more sentences."""
        return f"{self.where} holds {found.what} at character {found.at}. {found.remedy}"

    @property
    def where(self) -> str:
        """The place in words: turn 2 (assistant)."""
        if not self.number:
            return "the text"
        turn = f"turn {self.number} ({self.role})"
        return f"the rejected answer's {turn}" if self.rejected else turn


class Parts(NamedTuple):
    """The texts of a row: all, those of turns (raw text is nobody's), those with characters beyond
    ASCII, and the answers to imitate."""

    all: list[Part]
    turns: list[Part]
    beyond_ascii: list[Part]
    answers: list[Part]


def parts_of(row: Row) -> Parts:
    """The texts of a row. An answer that is rejected, labelled bad or not trained is none to
    imitate."""
    found = [*_parts(row)]
    imitated = {
        number
        for number, turn in enumerate(row.turns, start=1)
        if turn.role == "assistant" and turn.trained and row.label is not False
    }
    return Parts(
        found,
        [part for part in found if part.number],
        [part for part in found if not part.text.isascii()],
        [part for part in found if part.number in imitated and not part.rejected],
    )


def _parts(row: Row) -> Iterator[Part]:
    if row.text:
        yield Part(row.text, 0)
    yield from _turns(row.turns, rejected=False)
    yield from _turns(row.rejected, rejected=True)


def _turns(turns: tuple[Turn, ...], *, rejected: bool) -> Iterator[Part]:
    for number, turn in enumerate(turns, start=1):
        yield Part(turn.content, number, turn.role, rejected)


def has_digits(text: str, count: int) -> bool:
    """Whether so many digits follow each other with nothing but separators between them.

    Patterns for numbers try all ways at every digit: this says first where that is in vain.
    """
    return b"0" * count in _kinds(text)


@lru_cache(maxsize=16)
def _kinds(text: str) -> bytes:
    return text.encode("utf-8", "replace").translate(_DIGITS, _SEPARATORS)


def masked(secret: str) -> str:
    """The first characters of what must not be printed in full: 'sk-a…'."""
    return f"'{_WHITE_SPACE.sub(' ', secret[:_SHOWN_CHARACTERS])}…'"
