"""Checkpoints that are either complete or not there.

A checkpoint counts once its manifest, written last, lists every file with its
sha256. The folder's key is a hash of config, corpus and base model: a restart
of the same work finds it, other work does not.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from ytrainer_core.files import home, sha256_file, sha256_folder, sha256_json, write_json

logger = logging.getLogger(__name__)

MANIFEST_NAME = "ytrainer-checkpoint.json"
RUN_NAME = "run.json"
_STEP = re.compile(r"checkpoint-(\d+)$")


def training_key(config: dict[str, Any], data_sha256: str, base_sha256: str) -> str:
    """Name of one piece of training work: same config, corpus and base, same key."""
    parts = {name: value for name, value in config.items() if name not in _NOT_PART_OF_THE_WORK}
    return sha256_json([parts, data_sha256, base_sha256])[:16]


_NOT_PART_OF_THE_WORK = ("output_dir", "tracking")
"""Sections that change where results go, not what they are."""


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
    except (OSError, ValueError):
        return "the checkpoint has no manifest, so it was cut off while being written"
    for name, digest in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_file(file) != digest:
            return f"{name} is damaged (sha256 differs)"
    return None
