"""Checkpoints that are either complete or not there, and the models that came of them.

A checkpoint counts once its manifest, written last, lists every file with its
sha256. The folder's key is a hash of config, corpus and base model: a restart
of the same work finds it, other work does not. When the work is done the folder
holds the model, linked to where it was delivered, and no checkpoint any more.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ytrainer_core.errors import CheckpointError
from ytrainer_core.files import (
    atomic_folder,
    home,
    sha256_file,
    sha256_folder,
    sha256_json,
    write_json,
)

logger = logging.getLogger(__name__)

MANIFEST_NAME = "ytrainer-checkpoint.json"
_STEP = re.compile(r"checkpoint-(\d+)$")

WORK_NAME = "work.json"
FINISHED_NAME = "finished.json"
DELIVERED_NAME = "delivered.json"
MODEL_NAME = "model"
EPOCHS_NAME = "epochs"

_NOT_PART_OF_THE_WORK = frozenset(
    {
        *("output_dir", "tracking", "train.resume", "train.tensorboard", "train.checkpoint_to"),
        *("launch.node_cpu", "launch.node_memory", "launch.node_gpu_type"),
        *("launch.node_shared_memory", "launch.node_timeout_hours", "launch.runtime"),
        *("launch.kueue_queue", "launch.kueue_priority_class", "launch.volcano_queue"),
    }
)
"""Config keys that say where work is done and results go, not what they are."""


@dataclass(frozen=True)
class Work:
    """What makes one piece of training work: the same work has the same key.

    config: the resolved one, flat (dotted key -> value). The sha256 are those of the corpus'
    rows, of the curriculum (empty without) and of the base model.
    """

    stage: str
    config: Mapping[str, Any]
    data_sha256: str
    order_sha256: str
    base_sha256: str

    @classmethod
    def of(
        cls,
        stage: str,
        config: Mapping[str, Any],
        order: Sequence[int] | None,
        data_sha256: str,
        base_sha256: str,
    ) -> Work:
        """From a resolved config as nested sections, and the order of the rows."""
        return cls(
            stage, _flat(config), data_sha256, sha256_json(order) if order else "", base_sha256
        )

    @property
    def key(self) -> str:
        """Name of the work's folder."""
        return sha256_json(asdict(self))[:16]

    def differences(self, other: Work) -> list[str]:
        """What `other` did otherwise, one line each; made to be read by a person."""
        found = [
            f"{name}: {other.config.get(name)!r} -> {self.config.get(name)!r}"
            for name in sorted({*self.config, *other.config})
            if self.config.get(name) != other.config.get(name)
        ]
        for what, mine, theirs in (
            ("the corpus' rows", self.data_sha256, other.data_sha256),
            ("the order of the rows", self.order_sha256, other.order_sha256),
            ("the base model", self.base_sha256, other.base_sha256),
        ):
            if mine != theirs:
                found.append(f"{what}: sha256 {theirs[:12] or 'none'} -> {mine[:12] or 'none'}")
        return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        if dotted in _NOT_PART_OF_THE_WORK:
            continue
        flat |= _flat(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return flat


def describe(root: Path, work: Work) -> None:
    """Write down what work a folder of checkpoints belongs to."""
    if not (root / WORK_NAME).exists():
        write_json(root / WORK_NAME, asdict(work))


def unfinished_relative(work: Work) -> tuple[Path, list[str]] | None:
    """The cut-off training most like `work` but not the same: (its folder, what differs).

    Like it is one of the same stage with the same base model or the same rows.
    """
    found = []
    for file in (home() / "checkpoints").glob(f"*/{WORK_NAME}"):
        folder = file.parent
        sealed = any(folder.glob(f"checkpoint-*/{MANIFEST_NAME}"))
        if folder.name == work.key or not sealed or (folder / FINISHED_NAME).exists():
            continue
        try:
            other = Work(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        alike = work.base_sha256 == other.base_sha256 or work.data_sha256 == other.data_sha256
        if other.stage == work.stage and alike:
            found.append((work.differences(other), folder))
    if not found:
        return None
    differences, folder = min(found, key=lambda pair: (len(pair[0]), str(pair[1])))
    return folder, differences


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


def finished(root: Path) -> dict[str, Any] | None:
    """What `mark_finished` wrote, where the model is still there unchanged."""
    try:
        record: dict[str, Any] = json.loads((root / FINISHED_NAME).read_text(encoding="utf-8"))
        intact = sha256_folder(root / MODEL_NAME) == record["files"]
    except (OSError, ValueError, KeyError):
        return None
    if not intact:
        logger.warning("%s: the finished model is damaged; it is trained again.", root)
    return record if intact else None


def mark_finished(root: Path, result: Mapping[str, Any]) -> None:
    """Keep the finished model's digests and figures, and drop what it was made from."""
    files = sha256_folder(root / MODEL_NAME)
    write_json(root / FINISHED_NAME, {"files": files, "result": dict(result)})
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in (MODEL_NAME, EPOCHS_NAME):
            shutil.rmtree(folder)


def start_anew(root: Path) -> None:
    """Forget everything about one piece of work."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def forget_deleted() -> None:
    """Drop finished models whose delivered names were deleted, so that they hold no space.

    Where the disk gave them no second name, it cannot be told: these stay.
    """
    for note in (home() / "checkpoints").glob(f"*/{DELIVERED_NAME}"):
        root = note.parent
        with _lock_file(root) as lock:
            if not _lock_now(lock):
                continue  # it is being delivered
            weights = list((root / MODEL_NAME).glob("*.safetensors"))
            if _were_linked(note) and all(file.stat().st_nlink == 1 for file in weights):
                shutil.rmtree(root)


def _were_linked(note: Path) -> bool:
    """Whether a delivery gave second names, and no copies on another disk."""
    try:
        return bool(json.loads(note.read_text(encoding="utf-8"))["linked"])
    except (OSError, ValueError, KeyError):
        return False


def deliver(root: Path, model: Path, epochs: Path) -> None:
    """Put the finished model and the kept epochs of the work in `root` where they belong."""
    (root / EPOCHS_NAME).mkdir(exist_ok=True)
    linked = _link_folder(root / MODEL_NAME, model)
    _link_folder(root / EPOCHS_NAME, epochs)
    write_json(root / DELIVERED_NAME, {"to": str(model), "linked": linked})


def _link_folder(source: Path, target: Path) -> bool:
    """A second name for every file of a folder, atomically; copies where the disk has no links.

    Returns whether all are links.
    """
    copied: list[str] = []

    def link(file: str, to: str) -> None:
        try:
            os.link(file, to)
        except OSError:
            shutil.copy2(file, to)
            copied.append(to)

    with atomic_folder(target) as scratch:
        shutil.copytree(source, scratch, copy_function=link, dirs_exist_ok=True)
    return not copied


_LOCK_SECONDS = 15.0
"""How long to wait for another process on the same work; a dying one is gone by then."""


@contextmanager
def exclusive(root: Path) -> Iterator[Path]:
    """Hold one piece of work's checkpoint folder, so that two processes never train it at once.

    Raises CheckpointError where another living process holds it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(root) as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _lock_now(lock):
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{root}: another process trains the same config on the same corpus. "
                    "Wait for it, or change the seed to train beside it."
                )
            time.sleep(0.2)
        root.mkdir(exist_ok=True)
        yield root


def _lock_file(root: Path) -> IO[str]:
    """The file whose lock, held while it is open, is that of the work in `root`."""
    return root.with_suffix(".lock").open("w")


def _lock_now(lock: IO[str]) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
