"""A row at each step of its way in: as it stood in the file, as read, as it enters the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

UNREADABLE = "unreadable_row"
UNKNOWN_SHAPE = "unknown_shape"
NOT_FOR_TRAINING = "not_for_training"
EMPTY_TEXT = "empty_text"

Fields = Mapping[str, Any]
"""A row's named fields, as the file gives them."""


class Unparsed(Enum):
    """Stands where the value of a row will be, and stays itself on the way to another process."""

    UNPARSED = auto()


UNPARSED = Unparsed.UNPARSED


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as a container gives it.

    line: where it begins, from 1: a line of text, a record of a .parquet, a row of a sheet.
    raw: the row as it stood there, as JSON where the container is no text. value: its fields;
    UNPARSED where `raw` is JSON that is still to be read. error: why it cannot be read, if so.
    column: of the line's characters the one it begins at, from 1, where another row begins on
    the line before it, else 0.
    """

    line: int
    raw: str
    value: object = UNPARSED
    error: str = ""
    column: int = 0

    @property
    def place(self) -> str:
        """Its line, and the column of a row that is not the first on its line: 3, or 3:120."""
        return f"{self.line}:{self.column}" if self.column else str(self.line)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. role: system, user, assistant or tool.

    trained: whether an assistant's answer may carry labels; files say so by loss or weight.
    """

    role: str
    content: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """What the fields of one row say; the parts are those of `Row`."""

    turns: tuple[Turn, ...] = ()
    text: str = ""
    label: bool | None = None
    rejected: tuple[Turn, ...] = ()
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation (turns) or a raw document (text), and the place it came from.

    label: whether the answer is a good one, in rows for KTO. rejected: the turns of the worse
    answer, in preference rows. extra: further columns, as JSON, in rows that end with a question
    (what rewards need). raw is the row as it stood in the file, for the quarantine; it says
    nothing about equality.
    """

    origin: str
    turns: tuple[Turn, ...]
    text: str = ""
    label: bool | None = None
    rejected: tuple[Turn, ...] = ()
    extra: str = ""
    raw: str = field(default="", compare=False, repr=False)

    @property
    def kind(self) -> str:
        """What can be done with it: text, conversation, kto, preference or prompt."""
        if not self.turns:
            return "text"
        if self.rejected:
            return "preference"
        if self.label is not None:
            return "kto"
        return "prompt" if self.extra else "conversation"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not enter the corpus: where it stood, which rule it broke, and why."""

    origin: str
    rule: str
    reason: str
    raw: str


class RowFault(Exception):
    """A row that cannot be read as its shape. Carries the rule it breaks."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
