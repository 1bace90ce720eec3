"""Checkpoints that are either complete or not there.

A checkpoint counts once its manifest, written last, lists every file with its
sha256. The folder's key is a hash of config, corpus and base model: a restart
of the same work finds it, other work does not.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ytrainer_core.errors import CheckpointError
from ytrainer_core.files import home, sha256_file, sha256_folder, sha256_json, write_json

logger = logging.getLogger(__name__)

MANIFEST_NAME = "ytrainer-checkpoint.json"
_STEP = re.compile(r"checkpoint-(\d+)$")


_NOT_PART_OF_THE_WORK = frozenset({"output_dir", "tracking"})
"""Config keys that say where results go, not what they are."""


def training_key(
    config: Mapping[str, Any], order: Sequence[int] | None, data_sha256: str, base_sha256: str
) -> str:
    """Name of one piece of training work: same config, order, corpus and base, same key."""
    work = {name: value for name, value in config.items() if name not in _NOT_PART_OF_THE_WORK}
    return sha256_json([work, order, data_sha256, base_sha256])[:16]


def checkpoint_root(key: str) -> Path:
    """Folder of all checkpoints of one piece of work."""
    return home() / "checkpoints" / key


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint complete by writing its manifest."""
    files = sha256_folder(checkpoint)
    files.pop(MANIFEST_NAME, None)
    write_json(checkpoint / MANIFEST_NAME, {"files": files})


def newest_complete(root: Path) -> Path | None:
    """The newest sealed checkpoint whose files are all as they were; damaged ones are skipped."""
    found = [
        (int(m[1]), path) for path in root.glob("checkpoint-*") if (m := _STEP.search(str(path)))
    ]
    for _, path in sorted(found, reverse=True):
        fault = _damage(path)
        if fault is None:
            return path
        logger.warning("%s: %s; skipped, an older checkpoint is tried.", path, fault)
    return None


def _damage(checkpoint: Path) -> str | None:
    try:
        manifest = json.loads((checkpoint / MANIFEST_NAME).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "the checkpoint has no manifest, so it was cut off while being written"
    for name, digest in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_file(file) != digest:
            return f"{name} is damaged (sha256 differs)"
    return None


_LOCK_SECONDS = 15.0
"""How long to wait for another process on the same work; a dying one is gone by then."""


@contextmanager
def exclusive(root: Path) -> Iterator[Path]:
    """Hold one piece of work's checkpoint folder, so that two processes never train it at once.

    Raises CheckpointError where another living process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"{root}: another process trains the same config on the same corpus. "
                        "Wait for it, or change the seed to train beside it."
                    ) from error
                time.sleep(0.2)
        yield root
