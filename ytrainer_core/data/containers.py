"""Files become raw rows: every container gives its rows one at a time, with the line they begin on.

Lines are counted on the way, never by looking back, so a file is read in one linear pass. A broken
line is one rejected row; a container that cannot be read past the break stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from ytrainer_core.data.encoded import (
    COMPRESSIONS,
    decoded,
    is_packed,
    read_lines,
    split_lines,
)
from ytrainer_core.data.json_array import array_rows
from ytrainer_core.data.rows import UNPARSED, RawRow
from ytrainer_core.data.tables import csv_rows, parquet_rows, sheet_rows

__all__ = ["CONTAINERS", "READABLE", "TABLES", "UNPARSED", "RawRow", "container_of", "rows_of"]


def container_of(path: PurePath) -> str | None:
    """The suffix that says how a file is read (.jsonl of rows.jsonl.gz); None where unknown."""
    inner = PurePath(path.stem) if is_packed(path) else path
    suffix = inner.suffix.lower()
    return suffix if suffix in CONTAINERS else None


def rows_of(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    """The rows of a file of a known container, in their order.

    name: what errors call the file. encoding: of its text; tables of other libraries know theirs.
    Raises DataError where the file is damaged, wrongly encoded, or broken beyond a row.
    """
    container = container_of(path)
    if container is None:
        raise ValueError(f"{path} is no container")
    return CONTAINERS[container](name, path, encoding)


def _json(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    return array_rows(name, decoded(name, path, encoding))


def _json_lines(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    """One row a line, not yet parsed: whoever checks a row parses it. Blank lines are no rows."""
    for number, line in read_lines(name, path, encoding):
        if line and not line.isspace():
            yield RawRow(number, line)


def _documents(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    """One document a line; blank lines separate and are no rows."""
    for number, line in read_lines(name, path, encoding):
        if line and not line.isspace():
            yield RawRow(number, line, {"text": line})


def _csv(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    return csv_rows(name, split_lines(decoded(name, path, encoding)), ",")


def _tsv(name: str, path: Path, encoding: str) -> Iterator[RawRow]:
    return csv_rows(name, split_lines(decoded(name, path, encoding)), "\t")


CONTAINERS: dict[str, Callable[[str, Path, str], Iterator[RawRow]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": lambda name, path, _: parquet_rows(name, path),
    ".txt": _documents,
    ".xlsx": lambda name, path, _: sheet_rows(name, path),
}
"""Suffix -> the reader of such files, given the file's name, its path and its text's encoding."""

TABLES = (".csv", ".tsv", ".xlsx")
"""Containers whose first row names the columns."""

READABLE = f"{', '.join(CONTAINERS)} (each also as {' or '.join(COMPRESSIONS)})"
"""What files can be read, in words."""
