"""Tables become rows with named fields: .csv and .tsv, sheets of .xlsx, records of .parquet.

Cells of text tables and sheets are strings, and empty ones are None. A first column without a name
is the index that some libraries write, and left out.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ytrainer_core.data.encoded import damaged, required, seekable
from ytrainer_core.data.fields import as_json
from ytrainer_core.data.rows import Fields, RawRow
from ytrainer_core.errors import DataError

# Characters of one cell; Python's own limit of 131,072 is less than a long document has.
_LONGEST_CELL = 2**31 - 1
# Records of a .parquet that are in memory at a time.
_RECORDS = 256

_DELIMITERS = {",": "comma", "\t": "tab"}

_Read = TypeVar("_Read")


# --- .csv and .tsv -------------------------------------------------------------------------------


def csv_rows(name: str, lines: Iterable[str], delimiter: str) -> Iterator[RawRow]:
    """The rows of a text table, each with the line it begins on. A cell may hold line breaks.

    lines: without their line feeds. The first one names the columns. Rows without any text are
    left out. Raises DataError where the header, or the rest of the file, cannot be read.
    """
    csv.field_size_limit(_LONGEST_CELL)
    taken = _Taken(lines)
    reader = csv.reader(taken, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        taken.lines.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if taken.ended or not header:
                raise _unreadable_table(name, line, error, ended=taken.ended) from error
            why = f"cannot be split into cells ({error})"
            remedy = 'Write a quotation mark inside a quoted cell twice ("")'
            yield RawRow(line, taken.text(), error=f"{why}. {remedy}")
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = _header(f"{name}:{line}", cells)
        elif len(cells) != len(header):
            yield RawRow(line, taken.text(), error=_ragged(cells, header, delimiter))
        else:
            yield _row(line, header, [cell or None for cell in cells], taken.text())


class _Taken:
    """Hands lines on, and keeps those of the row that is being read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: list[str] = []
        self.ended = False
        self._source = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._source, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.lines.append(f"{line}\n")
        return self.lines[-1]

    def text(self) -> str:
        return "".join(self.lines).rstrip("\r\n")


def _unreadable_table(name: str, line: int, error: csv.Error, *, ended: bool) -> DataError:
    if ended:
        return DataError(
            f"{name}:{line}: a quotation mark opens a cell that is never closed, so the rest of "
            "the file would belong to it. Close it, or write the mark twice."
        )
    return DataError(
        f"{name}:{line}: the header cannot be split into columns ({error}). Write the names of the "
        "columns there."
    )


def _ragged(cells: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    return (
        f"has {len(cells)} cells, but the header names {len(header)} columns. Put cells that hold "
        f"a {_DELIMITERS[delimiter]} or a line break between quotation marks"
    )


# --- .xlsx ---------------------------------------------------------------------------------------


def sheet_rows(name: str, path: Path) -> Iterator[RawRow]:
    """The rows of the one filled sheet of an .xlsx, each with its row number.

    The first filled row names the columns; empty rows are left out. Raises DataError where the
    file is damaged, or more than one sheet is filled.
    """
    header: list[str] = []
    for line, values in enumerate(_read_whole(name, ".xlsx", _sheet_values(name, path)), start=1):
        cells = [None if value is None or value == "" else str(value) for value in values]
        while cells and cells[-1] is None:
            cells.pop()
        if not cells:
            continue
        if not header:
            header = _header(f"{name}:{line}", [cell or "" for cell in cells])
            continue
        named = [*header, *[""] * (len(cells) - len(header))]
        yield _row(line, named, [*cells, *[None] * (len(named) - len(cells))])


def _sheet_values(name: str, path: Path) -> Iterator[tuple[object, ...]]:
    openpyxl = required(name, "openpyxl")
    with seekable(name, path) as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles, which rows have not
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # some writers say that a sheet is smaller than it is
        filled = [
            sheet for sheet in book.worksheets if _is_filled(sheet.iter_rows(values_only=True))
        ]
        if len(filled) > 1:
            titles = ", ".join(f"'{sheet.title}'" for sheet in filled)
            raise DataError(
                f"{name}: has rows on {len(filled)} sheets ({titles}), and none can be preferred. "
                "Save the sheet that counts as a file of its own."
            )
        for sheet in filled:
            yield from sheet.iter_rows(values_only=True)


def _is_filled(rows: Iterable[tuple[object, ...]]) -> bool:
    return any(value is not None for row in rows for value in row)


# --- .parquet ------------------------------------------------------------------------------------


def parquet_rows(name: str, path: Path) -> Iterator[RawRow]:
    """The records of a .parquet, numbered from 1. Raises DataError where the file is damaged."""
    records = _read_whole(name, ".parquet", _records(name, path))
    for number, record in enumerate(records, start=1):
        yield RawRow(number, as_json(record), record)


def _records(name: str, path: Path) -> Iterator[Fields]:
    import pyarrow.parquet as pq

    with seekable(name, path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_RECORDS):
            yield from batch.to_pylist()


# --- what they share -----------------------------------------------------------------------------


def _read_whole(name: str, kind: str, rows: Iterator[_Read]) -> Iterator[_Read]:
    """The rows; whatever a library raises over a damaged file becomes a DataError."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (DataError, MemoryError):
            raise
        except Exception as error:  # damage comes out of every layer: zip, XML, Thrift, codecs
            raise damaged(name, kind, str(error) or type(error).__name__) from error
        yield row


def _header(where: str, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for number, name in enumerate(names, start=1):
        if name and name in names[number:]:
            again = names.index(name, number) + 1
            raise DataError(
                f"{where}: the header gives the columns {number} and {again} the same name, "
                f"'{name}'. Rename or delete one of them."
            )
    return names


def _row(
    line: int, header: Sequence[str], cells: Sequence[str | None], raw: str | None = None
) -> RawRow:
    named = list(zip(header, cells, strict=True))
    for number, (name, cell) in enumerate(named, start=1):
        if cell is not None and not name and number > 1:
            return RawRow(
                line,
                as_json(cells) if raw is None else raw,
                error=f"has a value in column {number}, which has no name in the header. Name the "
                "column, or empty it",
            )
    fields = {name: cell for name, cell in named if name}
    return RawRow(line, as_json(fields) if raw is None else raw, fields)
