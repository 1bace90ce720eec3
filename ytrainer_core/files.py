"""Writing so that nothing is ever half-written, and knowing what a file holds.

Every file appears under its name only when it is complete: temporary name,
fsync, rename. Everything ytrainer makes lies below one folder, `home()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 20

FORGOTTEN_SECONDS = 7 * 24 * 3600
"""Age after which the intermediate results of work that never went on are deleted."""


def home() -> Path:
    """The one folder that holds all runs: YTRAINER_HOME, else ./ytrainer-runs."""
    return Path(os.environ.get("YTRAINER_HOME") or "ytrainer-runs").absolute()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600; other users of a shared volume must read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a scratch folder that becomes `path` when the block ends without an error.

    An existing `path` is replaced. After an error nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    scratch.chmod(0o755)
    try:
        yield scratch
        for file in scratch.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # some writers give 0600; others on a shared volume must read
                _fsync(file)
        if path.is_dir():
            retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, retired / "old")
            try:
                os.replace(scratch, path)
            except BaseException:
                os.replace(retired / "old", path)
                raise
            finally:
                shutil.rmtree(retired)
        else:
            path.unlink(missing_ok=True)
            os.replace(scratch, path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_old(folder: Path) -> None:
    """Delete what nobody has touched for FORGOTTEN_SECONDS in a folder of intermediate results."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sha256_file(path: Path) -> str:
    """Hex sha256 of one file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_folder(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 for every file below a folder, sorted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
