"""Single fields of a row: read as what they have to be, or a fault that names the field."""

from __future__ import annotations

import json
from typing import Any

from ytrainer_core.data.rows import UNKNOWN_SHAPE, UNREADABLE, Fields, ParsedRow, RowFault

_TRUTHS = {
    "yes": True,
    "true": True,
    "是": True,
    "1": True,
    "no": False,
    "false": False,
    "否": False,
    "0": False,
}
"""Words of files and people for true and false, casefolded."""

_LABELS = ("label", "kto_tag")
"""Fields that say whether the answer is a good one."""

SHOWN = 160
"""Characters of a row that an error shows."""

# Characters of a wrong value that a reason shows.
_SHOWN_OF_A_VALUE = 60


def string(row: Fields, name: str) -> str:
    """A text field; a missing field and null read as empty, so that the checks name them."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise RowFault(
        UNKNOWN_SHAPE,
        f"'{name}' is a {type(value).__name__}, expected a string. Write it as text",
    )


def structured(value: object) -> object:
    """The list or object that a table's cell holds as JSON; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def truth(value: object) -> bool | None:
    """True or False as JSON, as 0 or 1, or as a word (yes, no, 是, 否); None for anything else."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _TRUTHS.get(value.strip().casefold()) if isinstance(value, str) else None


def label_of(row: Fields) -> bool | None:
    """Whether the row says that its answer is a good one; None where it says nothing."""
    for name in _LABELS:
        value = row.get(name)
        if value is None or value == "":
            continue
        if (label := truth(value)) is None:
            raise RowFault(
                UNKNOWN_SHAPE,
                f"'{name}' is {shown(value)}, expected true for a good answer or false for a bad "
                "one. Write it so, or rename the column if it means something else",
            )
        return label
    return None


def names(row: Fields) -> str:
    """The row's field names, for a reason."""
    return ", ".join(repr(str(name)) for name in row) or "(none)"


def shown(value: object) -> str:
    """A value as a reason shows it."""
    return shorten(repr(value), _SHOWN_OF_A_VALUE)


def shorten(text: str, length: int = SHOWN) -> str:
    """A text as an error shows it: on one line, and cut at `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}…"


def as_json(value: Any) -> str:
    """Any value as one line of JSON; what JSON has no form for (dates, bytes) as its text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def refuse_surrogates(parsed: ParsedRow) -> None:
    """Raise RowFault where a text cannot be written in any encoding."""
    turns = (turn.content for turn in (*parsed.turns, *parsed.rejected))
    for text in (parsed.text, parsed.extra, *turns):
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowFault(
                UNREADABLE,
                f"holds half a character (a lone surrogate, {text[error.start]!r}), which no "
                "encoding can write. Export the row again with whole characters",
            ) from error
