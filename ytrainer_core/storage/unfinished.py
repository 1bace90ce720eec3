"""Transfers that are under way or were cut off: what a next process finds of them on the disk."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ytrainer_core.files import home, sha256_json

# Names of unfinished downloads, which lie beside what they become.
_PART_PREFIX, _PART_SUFFIX = ".s3-", ".part"
UNFINISHED = f"{_PART_PREFIX}*{_PART_SUFFIX}"

logger = logging.getLogger(__name__)


@contextmanager
def part_of(target: Path, etag: str) -> Iterator[IO[bytes]]:
    """What has arrived of `target` in the object's version `etag`, to be appended to.

    It stays for the next run where the block is left without it having become the target.
    """
    begin = f"{_PART_PREFIX}{sha256_json([target.name, etag])[:32]}"
    path = target.with_name(begin + _PART_SUFFIX)
    part = claim(path)
    while part is None:  # another transfer has it: this one takes a file of its own
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=begin, suffix=_PART_SUFFIX)
        os.close(handle)
        part = claim(Path(name))
    try:
        yield part
    finally:
        if Path(part.name) != path or os.fstat(part.fileno()).st_size == 0:
            Path(part.name).unlink(missing_ok=True)
        part.close()


def sweep(folder: Path) -> None:
    """Remove parts of objects that have changed since, except where another transfer is at them."""
    for path in folder.rglob(UNFINISHED):
        if part := claim(path):
            path.unlink(missing_ok=True)
            part.close()


@contextmanager
def record_of(endpoint: str, uri: str) -> Iterator[IO[bytes] | None]:
    """The file that remembers an upload to `uri` in parts; None where another is under way.

    It is gone when the block has emptied it.
    """
    path = home() / "cache" / "s3" / "uploads" / f"{sha256_json([endpoint, uri])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = claim(path)
    try:
        yield record
    finally:
        if record:
            if os.fstat(record.fileno()).st_size == 0:
                path.unlink(missing_ok=True)
            record.close()


def recorded(record: IO[bytes] | None) -> dict[str, Any]:
    """What a record says; nothing where it is new, or its writer was killed while writing."""
    if not record:
        return {}
    record.seek(0)
    with suppress(ValueError):
        return dict(json.load(record))
    return {}


def forget(record: IO[bytes] | None) -> None:
    """Empty a record: there is no upload in parts to go on with."""
    if record:
        record.truncate(0)


def claim(path: Path) -> IO[bytes] | None:
    """Open a file to append to, for this transfer alone; None where another one has it."""
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:  # a file system without locks: two at once would not be noticed
            logger.debug("%s: cannot be locked: %s", path, error)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # whoever had it has renamed it meanwhile
