"""A file's bytes, unpacked and decoded block by block, so that no file is ever held whole."""

from __future__ import annotations

import codecs
import gzip
import importlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePath
from typing import IO, Any

from ytrainer_core import files
from ytrainer_core.data.fields import shorten
from ytrainer_core.errors import DataError

COMPRESSIONS = (".gz", ".zst")
"""Suffixes of packed files."""

_READ_BYTES = 1 << 20
# Packed bytes that zstd unpacks at a time: repetitions can become 40,000 times as many.
_READ_ZSTD_BYTES = 1 << 10
# The widest window that zstd can be asked to pack with (--long=31), in bytes.
_ZSTD_WINDOW_BYTES = 1 << 31


def required(name: str, module: str) -> Any:
    """Import what reads the file `name`. Raises DataError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{name}: reading it needs {module}, which is not installed. Run pip install {module}, "
            "or convert the file to .jsonl."
        ) from error


def damaged(name: str, kind: str, error: object) -> DataError:
    """The error of a file that breaks off, or is not what its name says."""
    return DataError(
        f"{name}: is damaged, cut off, or no {kind} file ({shorten(str(error))}). Fetch it or "
        "write it again."
    )


def is_packed(path: PurePath) -> bool:
    """Whether the file has to be unpacked before it is read."""
    return path.suffix.lower() in COMPRESSIONS


def unpacked(name: str, path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks, unpacked where it ends in .gz or .zst.

    Raises DataError where the packed bytes are damaged or cut off.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return _gunzipped(name, path)
    if suffix == ".zst":
        return _zstd_unpacked(name, path)
    return _blocks(path, _READ_BYTES)


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block


def _gunzipped(name: str, path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while True:
            try:
                block = file.read(_READ_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise damaged(name, ".gz", error) from error
            if not block:
                return
            yield block


def _zstd_unpacked(name: str, path: Path) -> Iterator[bytes]:
    # zstandard's own reader takes a file that is cut off for one that has ended.
    zstandard = required(name, "zstandard")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame: Any = None
    for packed in _blocks(path, _READ_ZSTD_BYTES):
        while packed:
            frame = frame or decompressor.decompressobj()
            try:
                block = frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise damaged(name, ".zst", error) from error
            if block:
                yield block
            packed = b""
            if frame.eof:  # a file may hold several frames, one after the other
                packed, frame = frame.unused_data, None
    if frame is not None:
        raise damaged(name, ".zst", "it ends within a frame")


@contextmanager
def seekable(name: str, path: Path) -> Iterator[IO[bytes]]:
    """The file opened for reading anywhere in it; a packed one is unpacked to disk meanwhile."""
    if not is_packed(path):
        with path.open("rb") as file:
            yield file
        return
    cache = files.home() / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache) as file:
        for block in unpacked(name, path):
            file.write(block)
        file.seek(0)
        yield file


def read_lines(name: str, path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end). Only a line feed ends a line."""
    for number, line in enumerate(split_lines(decoded(name, path, encoding)), start=1):
        yield number, line.removesuffix("\r")


def split_lines(blocks: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in blocks, without their line feeds."""
    begun: list[str] = []
    for block in blocks:
        *whole, rest = block.split("\n")
        for line in whole:
            yield "".join((*begun, line))
            begun = []
        begun.append(rest)
    if last := "".join(begun):
        yield last


def decoded(name: str, path: Path, encoding: str) -> Iterator[str]:
    """The file's text in blocks, without a byte order mark.

    Raises DataError with the byte that the encoding has not (of a packed file: of what is in it).
    """
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise DataError(
            f"data.encoding: no encoding is called '{encoding}'. Examples: utf-8, gb18030, cp1252."
        ) from error
    blocks = unpacked(name, path)
    head = b""
    while len(head) < len(codecs.BOM_UTF8) and (block := next(blocks, b"")):
        head += block
    read = 0  # bytes of the file before the block
    if head.startswith(codecs.BOM_UTF8):
        read = len(codecs.BOM_UTF8)
    for block in chain((head[read:],), blocks):
        yield _decode(name, encoding, decoder, block, read, final=False)
        read += len(block)
    yield _decode(name, encoding, decoder, b"", read, final=True)


def _decode(
    name: str,
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
            f"{name}: byte {read - waiting + error.start} is not {encoding} "
            f"({error.reason}). Save the file as UTF-8, or set data.encoding to what it is "
            "written in."
        ) from error
