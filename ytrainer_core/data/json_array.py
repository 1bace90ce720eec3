"""The rows of one JSON array, read as a stream: the next row is decoded, the last one forgotten.

Rows one after the other without an array are taken too. A broken array cannot be read past the
break and stops, with the line and the column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ytrainer_core.data.fields import SHOWN, shorten
from ytrainer_core.data.rows import RawRow
from ytrainer_core.errors import DataError

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")
_WHITESPACE = " \t\n\r"

# A token other than a string may be cut off so many characters before the end: -Infinity.
_LONGEST_TOKEN = 9


def array_rows(name: str, blocks: Iterator[str]) -> Iterator[RawRow]:
    """The rows of the JSON text that comes in blocks, each with the place it begins at.

    Raises DataError where the text is no JSON, or ends too early.
    """
    window = _Window(name, blocks)
    array = window.peek() == "["
    if array:
        window.advance(1)
    line = 0
    while (mark := window.peek()) and not (array and mark == "]"):
        column = window.column if window.line == line else 0
        line = window.line
        value, raw = window.value()
        yield RawRow(line, raw, value, column=column)
        if array:
            _next_element(window)
    if array:
        _check_array_end(window)


def _next_element(window: _Window) -> None:
    mark = window.peek()
    if mark in ("", "]"):
        return
    if mark != ",":
        raise DataError(
            f"{window.name}:{window.line}: expected a comma between two rows of the array, found "
            f"{mark!r}. Mend the JSON there."
        )
    comma = window.line
    window.advance(1)
    if window.peek() == "]":
        raise DataError(
            f"{window.name}:{comma}: a comma follows the last row of the array. Delete it."
        )


def _check_array_end(window: _Window) -> None:
    if not window.peek():
        raise DataError(
            f"{window.name}:{window.line}: the array is not closed, so the file seems cut off. "
            "Write it again, or end it with ']'."
        )
    window.advance(1)
    if window.peek():
        raise DataError(
            f"{window.name}:{window.line}: something follows the end of the array: "
            f"{shorten(window.ahead())}. Delete it, or put it into the array."
        )


class _Window:
    """The part of the text that is in memory: from the row that is read, as far as needed."""

    def __init__(self, name: str, blocks: Iterator[str]) -> None:
        self.name = name
        self.line = 1
        """Line of the file at which reading stands."""
        self._blocks = blocks
        self._text = ""
        self._position = 0
        self._line_start = 0  # where that line begins; below 0 in text that is forgotten

    @property
    def column(self) -> int:
        """Character of the line at which reading stands, from 1."""
        return self._position - self._line_start + 1

    def peek(self) -> str:
        """The next character that is not white space, empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._position)
            self.advance(blank.end() - self._position if blank else 0)
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def ahead(self) -> str:
        """Some of the text that follows."""
        return self._text[self._position : self._position + SHOWN]

    def advance(self, count: int) -> None:
        """Go on by so many characters."""
        end = self._position + count
        self.line += self._text.count("\n", self._position, end)
        self._line_start = self._line_start_at(end)
        self._position = end

    def _line_start_at(self, position: int) -> int:
        line_feed = self._text.rfind("\n", self._position, position)
        return self._line_start if line_feed < 0 else line_feed + 1

    def value(self) -> tuple[object, str]:
        """Read one JSON value: (the value, its text). Raises DataError where there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if not (self._may_go_on(error) and self._more()):
                    raise self._broken(error) from error
                continue
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{self.name}:{self.line}: a row that cannot be read ({error}). Mend the JSON "
                    "there, or write one row per line to a .jsonl."
                ) from error
            if end > len(self._text) - _LONGEST_TOKEN and self._more():
                continue  # a number may go on: 1 of 1e-5
            raw = self._text[self._position : end]
            self.advance(len(raw))
            return value, raw

    def _more(self) -> bool:
        """Take in more text and forget what was read; False where the file has ended."""
        rest = len(self._text) - self._position
        added: list[str] = []
        # At least as much again, so that a long row is decoded a few times and not at each block.
        while sum(map(len, added)) <= rest and (block := next(self._blocks, None)) is not None:
            added.append(block)
        if not any(added):
            return False
        self._line_start -= self._position
        self._text = "".join((self._text[self._position :], *added))
        self._position = 0
        return True

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the row may be whole with more text, or is broken whatever follows."""
        return error.msg.startswith("Unterminated string") or (
            error.pos >= len(self._text) - _LONGEST_TOKEN
        )

    def _broken(self, error: json.JSONDecodeError) -> DataError:
        line = self.line + self._text.count("\n", self._position, error.pos)
        column = error.pos - self._line_start_at(error.pos) + 1
        row = "" if line == self.line else f" in the row that begins on line {self.line}"
        why = f"not valid JSON ({error.msg}, column {column}{row})"
        if error.pos >= len(self._text.rstrip(_WHITESPACE)):
            why += ": the file seems cut off"
        return DataError(
            f"{self.name}:{line}: {why}. Mend the JSON there, or write one row per line to a "
            ".jsonl."
        )
