"""Raw rows become rows of the corpus, or rejected rows with their reason; each knows its origin.

`raw_rows` reads a file and `parse_raw` one of its rows; they are apart so that one process may read
while others parse. `read_rows` does both, one row after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import PurePath

from ytrainer_core.config.base import as_mapping
from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.containers import TABLES, container_of, rows_of
from ytrainer_core.data.fields import names, shorten, truth
from ytrainer_core.data.formats import detect_shape, parse_row, unknown_shape
from ytrainer_core.data.rows import (
    UNKNOWN_SHAPE,
    UNPARSED,
    UNREADABLE,
    Fields,
    RawRow,
    Rejected,
    Row,
    RowFault,
)
from ytrainer_core.data.sources import Source, find_sources
from ytrainer_core.errors import DataError

__all__ = [
    "RawRow",
    "Source",
    "find_sources",
    "mixed_shapes",
    "parse_raw",
    "raw_rows",
    "read_rows",
]

Y_AGENT_NAMES = {"reviewed": "是否审核", "corrected": "是否更正", "category": "分类名称"}
"""What data.where may call the columns of a Y-Agent export."""

# Rows in which a column has to turn up that the config names.
_PEEKED_ROWS = 1000


def raw_rows(source: Source, config: DataConfig) -> Iterator[RawRow]:
    """The rows of one file, in order and as they stand there.

    Raises DataError where the file is empty, damaged, wrongly encoded, broken beyond a row, or has
    not the columns of data.columns and data.where.
    """
    container = container_of(source.path)
    if container == ".txt" and config.format not in ("auto", "text"):
        raise DataError(
            f"{source.name}: a .txt file holds raw text, but data.format is '{config.format}'. "
            "Set data.format=auto, or convert the file to .jsonl."
        )
    rows = rows_of(source.name, source.path, config.encoding)
    first = list(islice(rows, _PEEKED_ROWS if config.columns or config.where else 1))
    if not first:
        raise DataError(f"{source.name}: holds no row. Fill it, or leave it out of the config.")
    # Raw text has no columns that could be renamed.
    _check_columns(source.name, first, () if container == ".txt" else config.columns, config.where)
    yield from chain(first, rows)


def parse_raw(
    source_name: str, raw_row: RawRow, config: DataConfig
) -> tuple[Row | Rejected | None, str | None]:
    """(the row, the name of its shape); the row is None where data.where leaves it out.

    The shape is None where none was recognised. Raises nothing for what a row may hold.
    """
    origin = f"{source_name}:{raw_row.place}"
    shape = None if config.format == "auto" else str(config.format)
    try:
        fields = _fields(raw_row)
        if config.where and not _is_wanted(fields, config.where):
            return None, None
        if config.columns:
            fields = _renamed(fields, config.columns)
        shape = shape or detect_shape(fields)
        if shape is None:
            raise _unknown(source_name, fields)
        row = parse_row(fields, shape)
    except RowFault as fault:
        return Rejected(origin, fault.rule, f"{fault.reason}.", raw_row.raw), shape
    raw = raw_row.raw
    return Row(origin, row.turns, row.text, row.label, row.rejected, row.extra, raw), shape


def read_rows(paths: Sequence[str], config: DataConfig) -> Iterator[Row | Rejected]:
    """Every row of the files in order, at most `config.max_rows` of them (0: all).

    Raises DataError for a file that is missing, of mixed shapes, or as `raw_rows`.
    """
    rows = (row for source in find_sources(paths) for row in _read_source(source, config))
    return islice(rows, config.max_rows or None)


def mixed_shapes(source_name: str, found: Mapping[str, RawRow]) -> DataError:
    """The error of a file with rows of several shapes. found: the first row of each shape."""
    rows = "; ".join(
        f"line {row.place} is {shape}: {shorten(row.raw)}" for shape, row in found.items()
    )
    return DataError(
        f"{source_name}: holds rows of {len(found)} shapes. {rows}. Put each shape into a file "
        "of its own, or set data.format to the one that counts (other rows are then quarantined)."
    )


def _read_source(source: Source, config: DataConfig) -> Iterator[Row | Rejected]:
    raws = raw_rows(source, config)
    first: dict[str, RawRow] = {}
    for raw_row in raws:
        row, shape = parse_raw(source.name, raw_row, config)
        if shape:
            first.setdefault(shape, raw_row)
        if len(first) > 1:
            for later in raws:
                _, shape = parse_raw(source.name, later, config)
                if shape:
                    first.setdefault(shape, later)
            raise mixed_shapes(source.name, first)
        if row is not None:
            yield row


# --- the fields of a row, and which rows are wanted ----------------------------------------------


def _fields(raw_row: RawRow) -> Fields:
    if raw_row.error:
        raise RowFault(UNREADABLE, raw_row.error)
    value = _parsed(raw_row.raw) if raw_row.value is UNPARSED else raw_row.value
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RowFault(UNKNOWN_SHAPE, f"is a {kind}, expected an object with named fields")
    return value


def _unknown(source_name: str, fields: Fields) -> RowFault:
    fault = unknown_shape(fields)
    if container_of(PurePath(source_name)) not in TABLES:
        return fault
    hint = "If these are no names, write the names of the columns into the file's first line"
    return RowFault(fault.rule, f"{fault.reason}. {hint}")


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = f"is not JSON ({why}{column}). Write one whole JSON object per line"
        raise RowFault(UNREADABLE, reason) from error


_mapping = lru_cache(as_mapping)


def _renamed(fields: Fields, columns: tuple[str, ...]) -> Fields:
    """The row with the columns that data.columns names under their fields' names."""
    mapping = {field: column for field, column in _mapping(columns).items() if column in fields}
    mapped = set(mapping.values())
    kept = {name: value for name, value in fields.items() if name not in mapped}
    return kept | {field: fields[column] for field, column in mapping.items()}


def _is_wanted(fields: Fields, where: tuple[str, ...]) -> bool:
    """Whether the row has, in every column of data.where, one of the values given for it."""
    return all(
        any(_same(fields.get(_own_name(column, fields)), value) for value in values)
        for column, values in _values(where).items()
    )


@lru_cache
def _values(where: tuple[str, ...]) -> dict[str, list[str]]:
    """('a=1', 'a=2', 'b=3') -> {'a': ['1', '2'], 'b': ['3']}"""
    found: dict[str, list[str]] = {}
    for pair in where:
        for column, value in as_mapping((pair,)).items():
            found.setdefault(column, []).append(value)
    return found


def _own_name(column: str, fields: Fields) -> str:
    return column if column in fields else Y_AGENT_NAMES.get(column, column)


def _same(value: object, wanted: str) -> bool:
    """Whether a cell holds the wanted value: the same word in any case, or another for as true."""
    if isinstance(value, list | dict):
        return False
    told = truth(wanted)
    if told is not None and truth(value) is told:
        return True
    text = "" if value is None else str(value)
    return text.strip().casefold() == wanted.casefold()


def _check_columns(
    source_name: str, rows: Sequence[RawRow], columns: tuple[str, ...], where: tuple[str, ...]
) -> None:
    """Raise DataError where the config names columns that none of the rows has."""
    if not columns and not where:
        return
    own: dict[str, object] = {}
    for raw_row in rows:
        try:
            own |= _fields(raw_row)
        except RowFault:
            continue  # it is reported where it is parsed
    missing = [("data.columns", name) for name in _mapping(columns).values() if name not in own]
    missing += [("data.where", name) for name in _values(where) if _own_name(name, own) not in own]
    if own and missing:
        raise DataError(
            *(
                f"{source_name}: has no column '{column}', which {knob} names. Its columns are "
                f"{names(own)}. Name one of them in {knob}, or leave it out."
                for knob, column in missing
            )
        )
