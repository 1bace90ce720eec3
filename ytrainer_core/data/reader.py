"""Files become rows one at a time, and every row knows the file and the line it began on.

Lines are counted on the way, never by looking back, so a file is read in one linear pass. A broken
line of a .jsonl is one rejected row; a broken .json array cannot be read past the break and stops.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ytrainer_core import files
from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.formats import (
    UNKNOWN_SHAPE,
    UNREADABLE,
    Rejected,
    Row,
    RowFault,
    detect_shape,
    parse_row,
    unknown_shape,
)
from ytrainer_core.errors import DataError

SUFFIXES = (".json", ".jsonl", ".txt")

_READ_BYTES = 1 << 20
# A sample of a row in an error message, in characters.
_SHOWN = 160
_WHITESPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus file: the name the config gives it, and where it lies on this machine."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row before its shape is known. line is 1-based; value is None where error is set."""

    line: int
    raw: str
    value: object = None
    error: str = ""


def find_sources(paths: Sequence[str]) -> list[Source]:
    """The files that paths name: files, folders of them, s3:// objects.

    Raises one DataError with every path that is missing or is no corpus file.
    """
    sources: list[Source] = []
    faults: list[str] = []
    for name in paths:
        try:
            sources += _sources_of(name)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(*faults)
    return sources


def _sources_of(name: str) -> list[Source]:
    if name.startswith("s3://"):
        from ytrainer_core import storage

        _check_suffix(name, Path(name))
        return [Source(name, storage.fetch(name, files.home() / "cache" / "s3"))]
    path = Path(name).expanduser()
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise DataError(
                f"{name}: the folder holds no {', '.join(SUFFIXES)} file. Name a folder that does."
            )
        return [Source(str(file), file) for file in inside]
    if not path.exists():
        raise DataError(
            f"{name}: no such file (looked in {Path.cwd()}). Correct the path in data.train, "
            "data.validation or data.general."
        )
    _check_suffix(name, path)
    return [Source(name, path)]


def _check_suffix(name: str, path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{name}: '{path.suffix}' files cannot be read. Convert it to one of "
            f"{', '.join(SUFFIXES)}."
        )


def read_rows(paths: Sequence[str], config: DataConfig) -> Iterator[Row | Rejected]:
    """Every row of the files in order, at most `config.max_rows` of them (0: all).

    Raises DataError for a file that is missing, empty, wrongly encoded, broken beyond a row, or of
    mixed shapes.
    """
    return read_sources(find_sources(paths), config)


def read_sources(sources: Iterable[Source], config: DataConfig) -> Iterator[Row | Rejected]:
    """`read_rows` of files that are already found."""
    rows = (row for source in sources for row in _read_source(source, config))
    return islice(rows, config.max_rows or None)


def _read_source(source: Source, config: DataConfig) -> Iterator[Row | Rejected]:
    rows: Iterator[Row | Rejected]
    if source.path.suffix.lower() == ".txt":
        rows = _read_documents(source, config)
    else:
        rows = _read_shaped(source, config)
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count:
        raise DataError(f"{source.name}: holds no row. Fill it, or leave it out of the config.")


def _read_documents(source: Source, config: DataConfig) -> Iterator[Row]:
    """A .txt file: one document per line; blank lines separate and are no rows."""
    if config.format not in ("auto", "text"):
        raise DataError(
            f"{source.name}: a .txt file holds raw text, but data.format is '{config.format}'. "
            "Set data.format=auto, or convert the file to .jsonl."
        )
    for number, line in read_lines(source, config.encoding):
        if line.strip():
            yield Row(origin=f"{source.name}:{number}", turns=(), text=line, raw=line)


def _read_shaped(source: Source, config: DataConfig) -> Iterator[Row | Rejected]:
    """A .json or .jsonl file: all rows of one shape, the first known one or the configured one."""
    raw_rows = _raw_rows(source, config.encoding)
    shape = None if config.format == "auto" else str(config.format)
    first: RawRow | None = None
    for raw_row in raw_rows:
        if config.format == "auto" and isinstance(raw_row.value, dict):
            found = detect_shape(raw_row.value)
            if found and shape and found != shape and first:
                raise _mixed_shapes(source, {shape: first, found: raw_row}, raw_rows)
            if found and first is None:
                shape, first = found, raw_row
        yield _shaped_row(source, raw_row, shape)


def _shaped_row(source: Source, raw_row: RawRow, shape: str | None) -> Row | Rejected:
    origin = f"{source.name}:{raw_row.line}"
    try:
        if raw_row.error:
            raise RowFault(UNREADABLE, raw_row.error)
        if not isinstance(raw_row.value, dict):
            kind = type(raw_row.value).__name__
            raise RowFault(UNKNOWN_SHAPE, f"is a {kind}, expected an object with named fields")
        if shape is None:
            raise unknown_shape(raw_row.value)
        turns, text = parse_row(raw_row.value, shape)
    except RowFault as fault:
        return Rejected(origin, fault.rule, f"{fault.reason}.", raw_row.raw)
    return Row(origin, turns, text, raw=raw_row.raw)


def _mixed_shapes(source: Source, found: dict[str, RawRow], rest: Iterable[RawRow]) -> DataError:
    for raw_row in rest:
        if isinstance(raw_row.value, dict) and (shape := detect_shape(raw_row.value)):
            found.setdefault(shape, raw_row)
    shown = "; ".join(
        f"line {row.line} is {shape}: {_shorten(row.raw)}" for shape, row in found.items()
    )
    return DataError(
        f"{source.name}: holds rows of {len(found)} shapes. {shown}. Put each shape into a file "
        "of its own, or set data.format to the one that counts (other rows are then quarantined)."
    )


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _raw_rows(source: Source, encoding: str) -> Iterator[RawRow]:
    if source.path.suffix.lower() == ".jsonl":
        return _lines_of_json(source, encoding)
    return _array_of_json(source, encoding)


def _lines_of_json(source: Source, encoding: str) -> Iterator[RawRow]:
    for number, line in read_lines(source, encoding):
        if not line.strip():
            continue
        try:
            yield RawRow(number, line, json.loads(line))
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            reason = f"is not JSON ({why}{column}). Write one whole JSON object per line"
            yield RawRow(number, line, error=reason)


def _array_of_json(source: Source, encoding: str) -> Iterator[RawRow]:
    """A .json file: one array of rows; rows one after the other without an array are taken too."""
    text = "".join(_decoded(source, encoding))
    decoder = json.JSONDecoder()
    position, line = _skip(text, 0, 1)
    if position == len(text):
        return
    array = text[position] == "["
    if array:
        position, line = _skip(text, position + 1, line)
    while position < len(text) and not (array and text[position] == "]"):
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken_json(source, text, line, error) from error
        yield RawRow(line, text[position:end], value)
        line += text.count("\n", position, end)
        position, line = _skip(text, end, line)
        if array:
            position, line = _next_element(source, text, position, line)
    if array:
        _check_array_end(source, text, position, line)


def _skip(text: str, position: int, line: int) -> tuple[int, int]:
    """Position and line of the next character that is not white space."""
    while position < len(text) and text[position] in _WHITESPACE:
        line += text[position] == "\n"
        position += 1
    return position, line


def _next_element(source: Source, text: str, position: int, line: int) -> tuple[int, int]:
    if position == len(text) or text[position] == "]":
        return position, line
    if text[position] != ",":
        raise DataError(
            f"{source.name}:{line}: expected a comma between two rows of the array, found "
            f"{text[position]!r}. Mend the JSON there."
        )
    comma = line
    position, line = _skip(text, position + 1, line)
    if position < len(text) and text[position] == "]":
        raise DataError(
            f"{source.name}:{comma}: a comma follows the last row of the array. Delete it."
        )
    return position, line


def _check_array_end(source: Source, text: str, position: int, line: int) -> None:
    if position == len(text):
        raise DataError(
            f"{source.name}:{line}: the array is not closed, so the file seems cut off. Write it "
            "again, or end it with ']'."
        )
    position, line = _skip(text, position + 1, line)
    if position < len(text):
        raise DataError(
            f"{source.name}:{line}: something follows the end of the array: "
            f"{_shorten(text[position : position + _SHOWN])}. Delete it, or put it into the array."
        )


def _broken_json(source: Source, text: str, line: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        where = f"{source.name}:{error.lineno}"
        row = "" if line == error.lineno else f" in the row that begins on line {line}"
        why = f"not valid JSON ({error.msg}, column {error.colno}{row})"
        if error.pos >= len(text.rstrip(_WHITESPACE)):
            why += ": the file seems cut off"
    else:
        where, why = f"{source.name}:{line}", f"a row that cannot be read ({error})"
    return DataError(f"{where}: {why}. Mend the JSON there, or write one row per line to a .jsonl.")


def read_lines(source: Source, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end). Only a line feed ends a line."""
    number = 0
    begun: list[str] = []
    for block in _decoded(source, encoding):
        *whole, rest = block.split("\n")
        for line in whole:
            number += 1
            yield number, "".join((*begun, line)).removesuffix("\r")
            begun = []
        begun.append(rest)
    if last := "".join(begun):
        yield number + 1, last.removesuffix("\r")


def _decoded(source: Source, encoding: str) -> Iterator[str]:
    """The file's text in blocks. Raises DataError with the byte that the encoding has not."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise DataError(
            f"data.encoding: no encoding is called '{encoding}'. Examples: utf-8, gb18030, cp1252."
        ) from error
    read = 0  # bytes of the file before `block`
    with source.path.open("rb") as file:
        head = file.read(len(codecs.BOM_UTF8))
        if head == codecs.BOM_UTF8:
            read, head = len(head), b""
        while block := head + file.read(_READ_BYTES):
            head = b""
            yield _decode(source, encoding, decoder, block, read, final=False)
            read += len(block)
        yield _decode(source, encoding, decoder, b"", read, final=True)


def _decode(
    source: Source,
    encoding: str,
    decoder: codecs.IncrementalDecoder,
    block: bytes,
    read: int,
    *,
    final: bool,
) -> str:
    waiting = len(decoder.getstate()[0])  # bytes of a character that an earlier block began
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source.name}: byte {read - waiting + error.start} is not {encoding} "
            f"({error.reason}). Save the file as UTF-8, or set data.encoding to what it is "
            "written in."
        ) from error
