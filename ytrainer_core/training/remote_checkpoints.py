"""Checkpoints in object storage: a machine that is lost loses what came after the last upload.

s3://PREFIX/<key of the work>/checkpoint-N holds the files of the checkpoint of step N. Its
manifest, the same that seals it on the disk, is stored last and deleted first: only with
it do the files count. They are uploaded by a thread while training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.config import TrainConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import sha256_folder
from ytrainer_core.storage import download_folder, is_remote, list_objects, put, upload_folder
from ytrainer_core.storage.delete import delete_objects
from ytrainer_core.training.checkpoints import MANIFEST_NAME, newest_complete

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_UPLOADING, _DOWNLOADING = ".uploading.", ".downloading."
_STATE_NAME = "trainer_state.json"


class RemoteCheckpoints:
    """The checkpoints of one piece of work below an address.

    prefix: s3://bucket/prefix. key: the work's, as `Work.key`. keep: how many of the newest stay;
    the one with the best evaluation stays too. Raises ConfigError where prefix is no such address.
    """

    def __init__(self, prefix: str, key: str, *, keep: int) -> None:
        if not is_remote(prefix):
            raise ConfigError(
                f"train.checkpoint_to '{prefix}': is no address in object storage. Write it as "
                "s3://BUCKET/PREFIX, or leave it empty."
            )
        self.address = f"{prefix.rstrip('/')}/{key}"
        self._keep = keep

    @classmethod
    def of(cls, config: TrainConfig, key: str) -> RemoteCheckpoints:
        """As the config says."""
        return cls(config.checkpoint_to, key, keep=config.save_total_limit)

    def complete(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, rising. Raises DataError."""
        return _sealed(self._listing())

    def store(self, checkpoint: Path) -> None:
        """Upload a sealed checkpoint; as `send`."""
        snapshot = Snapshot.of(checkpoint)
        try:
            self.send(snapshot)
        finally:
            snapshot.delete()

    def send(self, snapshot: Snapshot) -> None:
        """Upload a checkpoint; the address then holds it, and no more than it shall keep.

        One that is complete there already is left alone: the same work made it. Raises DataError
        where the storage refuses or stays out of reach.
        """
        there = self._listing()
        if snapshot.step not in _sealed(there):
            target = f"{self.address}/checkpoint-{snapshot.step}"
            upload_folder(snapshot.files, target)
            put(snapshot.manifest, f"{target}/{MANIFEST_NAME}")
            there = self._listing()
        kept = {*_sealed(there)[-self._keep :], _best(snapshot.files)}
        for old in sorted(there):
            if old < snapshot.step and old not in kept:
                self._delete(old, there[old])

    def fetch(self, root: Path) -> Path | None:
        """The newest complete checkpoint, on the disk or brought there; None where there is none.

        root: the work's folder. One whose bytes are not those of its manifest is taken out of
        the count, with a warning, and the one before it is tried. Raises DataError where the
        storage stays out of reach: going on from an older state would hide it.
        """
        for left in root.glob(f"{_UPLOADING}*"):
            shutil.rmtree(left)
        here = newest_complete(root)
        for step in reversed(self.complete()):
            if here and step <= _step(here):
                break
            if self._bring(step, root):
                here = root / f"checkpoint-{step}"
                break
        best = _best(here) if here else None
        if here and best and not (root / f"checkpoint-{best}").exists() and best in self.complete():
            self._bring(best, root)
        for left in root.glob(f"{_DOWNLOADING}*"):
            shutil.rmtree(left)
        return here

    def forget(self) -> None:
        """Delete all checkpoints of the work. Raises DataError."""
        for step, names in sorted(self._listing().items(), reverse=True):
            self._delete(step, names)

    def _bring(self, step: int, root: Path) -> bool:
        """Download one checkpoint and look whether it is what its manifest says."""
        folder = root / f"{_DOWNLOADING}checkpoint-{step}"  # a cut-off download goes on from there
        remote = f"{self.address}/checkpoint-{step}"
        download_folder(remote, folder)
        fault = _damage(folder)
        if fault:
            logger.warning(
                "%s: %s; it does not count any more, an older checkpoint is tried.", remote, fault
            )
            delete_objects([f"{remote}/{MANIFEST_NAME}"])
            shutil.rmtree(folder)
            return False
        named = {MANIFEST_NAME, *_manifest(folder)}
        for stray in folder.rglob("*"):  # of an earlier upload or download that was cut off
            if stray.is_file() and stray.relative_to(folder).as_posix() not in named:
                stray.unlink()
        target = root / f"checkpoint-{step}"
        shutil.rmtree(target, ignore_errors=True)  # cut off while it was written, or damaged
        folder.replace(target)
        return True

    def _listing(self) -> dict[int, list[str]]:
        """Step -> names of what lies below its checkpoint's address."""
        found: dict[int, list[str]] = {}
        for stored in list_objects(self.address):
            folder, _, name = stored.uri.removeprefix(f"{self.address}/").partition("/")
            if match := _NAME.fullmatch(folder):
                found.setdefault(int(match[1]), []).append(name)
        return found

    def _delete(self, step: int, names: list[str]) -> None:
        """The manifest first: from then on the rest does not count."""
        target = f"{self.address}/checkpoint-{step}"
        if MANIFEST_NAME in names:
            delete_objects([f"{target}/{MANIFEST_NAME}"])
        delete_objects([f"{target}/{name}" for name in names if name != MANIFEST_NAME])


@dataclass(frozen=True)
class Snapshot:
    """Second names for the files of a checkpoint, out of reach of what deletes old ones."""

    folder: Path
    step: int

    @classmethod
    def of(cls, checkpoint: Path) -> Snapshot:
        """Of a sealed checkpoint; made beside it, where the disk has links without a copy."""
        folder = Path(tempfile.mkdtemp(dir=checkpoint.parent, prefix=_UPLOADING))
        snapshot = cls(folder, _step(checkpoint))

        def link(source: str, to: str) -> None:
            try:
                os.link(source, to)
            except OSError:
                shutil.copy2(source, to)

        shutil.copytree(checkpoint, snapshot.files, copy_function=link)
        (snapshot.files / MANIFEST_NAME).rename(snapshot.manifest)
        return snapshot

    @property
    def files(self) -> Path:
        """Folder of all files but the manifest."""
        return self.folder / "files"

    @property
    def manifest(self) -> Path:
        """The manifest, which is stored last."""
        return self.folder / MANIFEST_NAME

    def delete(self) -> None:
        """Take the second names away."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Uploads:
    """A thread that stores checkpoints while training goes on; a context manager.

    Of those that wait the newest is taken, the others are left out: where uploading takes longer
    than an interval, training is not held up. Leaving the block waits for the last one.
    fault: what kept the last one from being stored; empty where it is there.
    """

    def __init__(self, remote: RemoteCheckpoints) -> None:
        self.fault = ""
        self._remote = remote
        self._next: Snapshot | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="checkpoint-upload", daemon=True)

    def __enter__(self) -> Uploads:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()
        if self.fault:
            logger.error("%s: another machine would go on from an older one, if any.", self.fault)

    def offer(self, checkpoint: Path) -> None:
        """Have a sealed checkpoint stored; it may be deleted as soon as this returns."""
        snapshot = Snapshot.of(checkpoint)
        with self._changed:
            overtaken, self._next = self._next, snapshot
            self._changed.notify()
        if overtaken:
            overtaken.delete()

    def _work(self) -> None:
        for snapshot in self._offered():
            try:
                self._remote.send(snapshot)
                self.fault = ""
            except Exception as error:  # whatever it is, training goes on
                self.fault = f"checkpoint-{snapshot.step} is not stored ({error})"
                logger.warning("%s. The next one is tried all the same.", self.fault)
            finally:
                snapshot.delete()

    def _offered(self) -> Iterator[Snapshot]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._ended)
                snapshot, self._next = self._next, None
            if snapshot is None:
                return
            yield snapshot


def _sealed(listing: Mapping[int, list[str]]) -> list[int]:
    return sorted(step for step, names in listing.items() if MANIFEST_NAME in names)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])


def _manifest(checkpoint: Path) -> dict[str, str]:
    """Name -> sha256 of every file of a sealed checkpoint."""
    manifest = json.loads((checkpoint / MANIFEST_NAME).read_text(encoding="utf-8"))
    return dict(manifest["files"])


def _damage(checkpoint: Path) -> str:
    """What speaks against a downloaded checkpoint, or nothing."""
    try:
        wanted = _manifest(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST_NAME} cannot be read"
    there = sha256_folder(checkpoint)
    for name, digest in wanted.items():
        if there.get(name) != digest:
            return f"{name} is {'damaged (sha256 differs)' if name in there else 'missing'}"
    return ""


def _best(checkpoint: Path) -> int | None:
    """Step of the best evaluation so far, where the trainer's state names one."""
    try:
        state = json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))
        match = _NAME.search(Path(state["best_model_checkpoint"] or "").name)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(match[1]) if match else None
