"""What a process has to tell of its run and the store does not have yet, on disk.

A folder per process and run, below home()/tracking: the records as JSON lines, copies of
the artifacts, and a lock that its process holds as long as it lives. Records leave the
file only when the store has them, so whoever gets the lock can deliver the rest.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ytrainer_core.files import home, write_json

Record = dict[str, Any]

_RECORDS = "records.jsonl"
_ABOUT = "run.json"
_LOCK = "lock"
_READ_BYTES = 1 << 20
"""Records are read in portions of about this size: an outage may have lasted for days."""

_logger = logging.getLogger(__name__)
_locks: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


def _close_locks_of_the_parent() -> None:
    for lock in list(_locks):
        lock.close()


# A forked worker that outlives its parent would keep the parent's locks.
os.register_at_fork(after_in_child=_close_locks_of_the_parent)


def journals() -> Path:
    """The folder of all journals."""
    return home() / "tracking"


class Journal:
    """The records of one run that are still to be delivered. Safe to use from several threads.

    about: {"run_id", "store" (its name, without a password), "process" (tags of the process)}.
    """

    def __init__(self, folder: Path, lock: BinaryIO | None) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self._lock = lock
        self._guard = threading.Lock()
        self._file = (folder / _RECORDS).open("a+b", buffering=0)
        self._delivered = 0  # bytes

    @classmethod
    def create(cls, about: Mapping[str, Any], root: Path | None = None) -> Journal:
        """A new journal. Raises OSError where none can be written."""
        root = root or journals()
        root.mkdir(parents=True, exist_ok=True)
        with alone(root):
            folder = Path(tempfile.mkdtemp(dir=root, prefix=f"{about['run_id']}."))
            lock = _hold(folder / _LOCK)
            write_json(folder / _ABOUT, dict(about))
            return cls(folder, lock)

    def append(self, kind: str, **fields: Any) -> None:
        """Add a record. It survives the process at once, the machine after sync().

        Raises OSError where the disk is full; the journal is then as it was.
        """
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        with self._guard:
            end = self._size()
            if self._file.write(line) != len(line):
                self._file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def keep(self, path: Path) -> str:
        """Copy a file or folder beside the records; the place for a record's `path`."""
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix="artifact.")) / path.name
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copyfile(path, place)
        return place.relative_to(self.folder).as_posix()

    def pending(self) -> tuple[list[Record], int]:
        """The oldest records that are not delivered, and the number for delivered().

        A last line without an end was being written when the machine stopped: it is left out.
        """
        portion = self._lines()
        records: list[Record] = []
        for line in portion.splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                _logger.warning("%s: unreadable record %r left out.", self.folder, line[:80])
        return records, self._delivered + len(portion)

    def delivered(self, records: list[Record], end: int) -> None:
        """Let go of what pending() gave: the store has it."""
        for record in records:
            if record["kind"] == "artifact":
                shutil.rmtree((self.folder / record["path"]).parent, ignore_errors=True)
        with self._guard:
            self._delivered = end
            if end == self._size():
                self._file.truncate(0)
                self._delivered = 0

    def sync(self) -> None:
        """Bring the records to the disk itself, so that they survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> bool:
        """Give the lock back; whether everything was delivered. The folder is then gone."""
        is_empty = not self.pending()[0]
        if is_empty:
            shutil.rmtree(self.folder, ignore_errors=True)
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        return is_empty

    def _lines(self) -> bytes:
        """Whole lines from the first one that is not delivered: _READ_BYTES, or one longer one."""
        size = _READ_BYTES
        while True:
            portion = os.pread(self._file.fileno(), size, self._delivered)
            end = portion.rfind(b"\n") + 1
            if end or len(portion) < size:
                return portion[:end]
            size *= 2

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size


def abandoned(root: Path, store: str) -> Iterator[Journal]:
    """The journals for a store whose processes are gone, each with its lock.

    To be called under alone(root); whoever iterates closes each journal.
    """
    folders = [path for path in root.iterdir() if path.is_dir()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime):
        try:
            lock = _hold(folder / _LOCK)
        except OSError:  # held by a process that lives, or not ours to touch
            continue
        if lock is None:
            continue  # without locks, nobody knows whether its process lives
        if not (folder / _ABOUT).exists():  # its process died while making it
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
            continue
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["store"] == store:
            yield Journal(folder, lock)
        else:
            lock.close()


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """One process at a time looks through the journals, or adds one."""
    with (root / ".lock").open("ab") as lock:
        _locks.add(lock)
        _flock(lock, fcntl.LOCK_EX)
        yield


def _hold(path: Path) -> BinaryIO | None:
    """The lock, held; None on a file system without locks. Raises BlockingIOError if taken."""
    lock = path.open("ab")
    try:
        held = _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    if not held:
        lock.close()
        return None
    _locks.add(lock)
    return lock


def _flock(file: BinaryIO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError:  # some network file systems have no locks
        return False
    return True
