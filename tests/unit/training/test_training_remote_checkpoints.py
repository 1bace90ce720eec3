"""Checkpoints in object storage count when they are whole; what is cut off is as if never begun."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import remote_checkpoint_worker as worker
from object_storage import s3_bucket

from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.storage import patience
from ytrainer_core.training import remote_checkpoints
from ytrainer_core.training.checkpoints import MANIFEST_NAME, newest_complete, seal
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints, Snapshot, Uploads

KEY = "0123456789abcdef"
ADDRESS = "s3://runs/checkpoints"
KILLS = 5
SIGTERM_GRACE_SECONDS = 30


@pytest.fixture
def bucket() -> Iterator[Any]:
    with s3_bucket("runs") as made:
        yield made


@pytest.fixture
def remote(bucket: Any) -> RemoteCheckpoints:
    return RemoteCheckpoints(ADDRESS, KEY, keep=2)


def make(root: Path, step: int, *, best: int = 0) -> Path:
    """A small sealed checkpoint; best: the step of the best evaluation so far."""
    folder = root / f"checkpoint-{step}"
    (folder / "rank").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights of %d" % step)
    (folder / "rank" / "rng").write_bytes(b"state")
    state = {"best_model_checkpoint": f"/elsewhere/checkpoint-{best}" if best else None}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    seal(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def steps_in(bucket: Any) -> set[int]:
    """Steps of which anything at all is stored."""
    return {int(item.key.split("/")[2].rsplit("-", 1)[-1]) for item in bucket.objects.all()}


def empty(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_what_was_stored_comes_back_on_an_empty_disk(
    remote: RemoteCheckpoints, bucket: Any, tmp_path: Path
) -> None:
    made = make(tmp_path / "one", 7)
    remote.store(made)
    other = empty(tmp_path, "other")
    assert remote.fetch(other) == other / "checkpoint-7"
    assert files_of(other / "checkpoint-7") == files_of(made)
    assert [path.name for path in other.iterdir()] == ["checkpoint-7"]
    assert bucket.Object(f"checkpoints/{KEY}/checkpoint-7/rank/rng").content_length == 5


def test_what_the_manifest_does_not_name_is_left_out(
    remote: RemoteCheckpoints, bucket: Any, tmp_path: Path
) -> None:
    made = make(tmp_path / "one", 7)
    bucket.put_object(Key=f"checkpoints/{KEY}/checkpoint-7/rank/of_two_processes", Body=b"older")
    remote.store(made)
    other = empty(tmp_path, "other")
    left = other / ".downloading.checkpoint-7" / "left"
    left.parent.mkdir()
    left.write_bytes(b"of a download that was cut off")
    assert remote.fetch(other) == other / "checkpoint-7"
    assert files_of(other / "checkpoint-7") == files_of(made)


def test_nothing_stored_is_nothing_found(remote: RemoteCheckpoints, tmp_path: Path) -> None:
    assert remote.fetch(tmp_path) is None and remote.complete() == []


def test_other_work_is_not_found(remote: RemoteCheckpoints, tmp_path: Path) -> None:
    RemoteCheckpoints(ADDRESS, KEY + "0", keep=2).store(make(tmp_path / "one", 3))
    assert remote.fetch(empty(tmp_path, "other")) is None


def test_the_newest_is_that_of_the_greatest_step(remote: RemoteCheckpoints, tmp_path: Path) -> None:
    for step in (9, 10):
        remote.store(make(tmp_path / "one", step))
    assert remote.fetch(empty(tmp_path, "other")).name == "checkpoint-10"  # type: ignore[union-attr]


def test_the_disks_own_is_taken_where_it_is_as_new(
    remote: RemoteCheckpoints, bucket: Any, tmp_path: Path
) -> None:
    made = make(tmp_path / "one", 4)
    remote.store(made)
    newer = make(tmp_path / "one", 5)
    before = (newer / "model.safetensors").stat()
    assert remote.fetch(tmp_path / "one") == newer
    assert (newer / "model.safetensors").stat() == before


def test_a_checkpoint_that_was_cut_off_on_the_disk_is_replaced(
    remote: RemoteCheckpoints, tmp_path: Path
) -> None:
    made = make(tmp_path / "one", 4)
    remote.store(made)
    whole = files_of(made)
    (made / MANIFEST_NAME).unlink()
    (made / "half").write_bytes(b"written")
    assert remote.fetch(tmp_path / "one") == made
    assert files_of(made) == whole


@pytest.mark.parametrize("fault", ["no manifest", "half a manifest", "missing", "other bytes"])
def test_a_torn_one_is_never_taken(
    fault: str,
    remote: RemoteCheckpoints,
    bucket: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = make(tmp_path / "one", 4)
    for made in (older, make(tmp_path / "one", 6)):
        remote.store(made)
    torn = f"checkpoints/{KEY}/checkpoint-6"
    if fault == "no manifest":
        bucket.Object(f"{torn}/{MANIFEST_NAME}").delete()
    elif fault == "half a manifest":
        bucket.put_object(Key=f"{torn}/{MANIFEST_NAME}", Body=b'{"files": {"model')
    elif fault == "missing":
        bucket.Object(f"{torn}/model.safetensors").delete()
    else:
        bucket.put_object(Key=f"{torn}/model.safetensors", Body=b"weights of 5")
    other = empty(tmp_path, "other")
    with caplog.at_level(logging.WARNING):
        assert remote.fetch(other) == other / "checkpoint-4"
    assert files_of(other / "checkpoint-4") == files_of(older)
    assert [path.name for path in other.iterdir()] == ["checkpoint-4"]
    assert (fault == "no manifest") or f"{ADDRESS}/{KEY}/checkpoint-6: " in caplog.text
    assert remote.complete() == [4]
    remote.store(tmp_path / "one" / "checkpoint-6")  # the work comes there once more
    again = empty(tmp_path, "again")
    assert remote.fetch(again) == again / "checkpoint-6"
    assert files_of(again / "checkpoint-6") == files_of(tmp_path / "one" / "checkpoint-6")


def test_the_manifest_is_stored_last(
    remote: RemoteCheckpoints, bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before: list[set[str]] = []

    def look_and_refuse(path: Path, uri: str) -> str:
        before.append({item.key.rpartition("/")[2] for item in bucket.objects.all()})
        raise DataError(f"{uri}: access is denied.")

    monkeypatch.setattr(remote_checkpoints, "put", look_and_refuse)
    with pytest.raises(DataError):
        remote.store(make(tmp_path / "one", 2))
    assert before == [{"model.safetensors", "rng", "trainer_state.json"}]
    assert remote.fetch(empty(tmp_path, "other")) is None
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["checkpoint-2"]


def test_the_newest_two_stay_and_what_was_cut_off_before_them_goes(
    remote: RemoteCheckpoints, bucket: Any, tmp_path: Path
) -> None:
    bucket.put_object(Key=f"checkpoints/{KEY}/checkpoint-1/model.safetensors", Body=b"cut off")
    bucket.put_object(Key=f"checkpoints/{KEY}/checkpoint-9/model.safetensors", Body=b"cut off")
    for step in (2, 4, 6):
        remote.store(make(tmp_path / "one", step))
    assert remote.complete() == [4, 6]
    assert steps_in(bucket) == {4, 6, 9}


def test_the_best_one_stays_and_comes_back_with_the_newest(
    remote: RemoteCheckpoints, tmp_path: Path
) -> None:
    for step in (2, 4, 6, 8):
        remote.store(make(tmp_path / "one", step, best=2))
    assert remote.complete() == [2, 6, 8]
    other = empty(tmp_path, "other")
    assert remote.fetch(other) == other / "checkpoint-8"
    assert sorted(path.name for path in other.iterdir()) == ["checkpoint-2", "checkpoint-8"]


def test_forgotten_work_leaves_nothing(
    remote: RemoteCheckpoints, bucket: Any, tmp_path: Path
) -> None:
    for step in (2, 4):
        remote.store(make(tmp_path / "one", step))
    remote.forget()
    assert list(bucket.objects.all()) == []


def test_an_address_that_is_none_names_the_knob() -> None:
    with pytest.raises(ConfigError, match=r"train.checkpoint_to '/mnt/pvc'.*s3://BUCKET/PREFIX"):
        RemoteCheckpoints("/mnt/pvc", KEY, keep=2)


def test_a_storage_out_of_reach_is_told_instead_of_starting_anew(
    remote: RemoteCheckpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.0)
    make(tmp_path, 3)
    with monkeypatch.context() as patch:  # taken back before the bucket's own variables are
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(DataError, match="AWS_ENDPOINT_URL"):
            remote.fetch(tmp_path)


class Slow(RemoteCheckpoints):
    """Stores nothing until it is told to, and writes down what it is given."""

    def __init__(self) -> None:
        super().__init__(ADDRESS, KEY, keep=2)
        self.begun, self.go = threading.Event(), threading.Event()
        self.stored: list[str] = []

    def send(self, snapshot: Snapshot) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.stored.append((snapshot.files / "model.safetensors").read_text())


def test_training_does_not_wait_and_of_those_that_wait_the_newest_is_stored(
    tmp_path: Path,
) -> None:
    slow = Slow()
    with Uploads(slow) as uploads:
        uploads.offer(make(tmp_path, 1))
        assert slow.begun.wait(60)
        for step in (2, 3, 4):
            folder = make(tmp_path, step)
            uploads.offer(folder)
            shutil.rmtree(folder)  # as the trainer deletes old ones
        shutil.rmtree(tmp_path / "checkpoint-1")
        assert slow.stored == []
        slow.go.set()
    assert slow.stored == ["weights of 1", "weights of 4"]
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_told_and_the_next_one_is_stored_all_the_same(
    remote: RemoteCheckpoints,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = threading.Event()

    def refuse(folder: Path, uri: str) -> dict[str, str]:
        refused.set()
        raise DataError(f"{uri}: access is denied.")

    with monkeypatch.context() as patch, Uploads(remote) as uploads:
        patch.setattr(remote_checkpoints, "upload_folder", refuse)
        uploads.offer(make(tmp_path, 1))
        assert refused.wait(60)
    assert "checkpoint-1 is not stored" in uploads.fault and "access is denied" in caplog.text
    with Uploads(remote) as uploads:
        uploads.offer(make(tmp_path, 2))
    assert not uploads.fault and remote.complete() == [2]


def start(root: Path, *, steps: int, pause: float) -> subprocess.Popen[bytes]:
    script = Path(worker.__file__)
    words = [str(root), ADDRESS, KEY, str(steps), str(pause)]
    return subprocess.Popen([sys.executable, str(script), *words])


def last_offered(root: Path) -> int:
    log = root / "log"
    lines = log.read_text().split() if log.exists() else []
    return int(lines[-1]) if lines else 0


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "nothing within a minute"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_five_times_while_it_uploads_the_newest_complete_one_is_what_was_saved(
    remote: RemoteCheckpoints, tmp_path: Path
) -> None:
    moments = random.Random(7)
    reached = 0
    for life in range(KILLS):
        root = empty(tmp_path, f"disk-{life}")  # another machine every time
        process = start(root, steps=1000, pause=0.05)
        wait_until(lambda reached=reached: remote.complete()[-1:] > [reached], process)  # type: ignore[misc]
        time.sleep(moments.random())  # the next one is on its way
        before = remote.complete()
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        looked_at = empty(tmp_path, f"looked-at-{life}")
        found = remote.fetch(looked_at)
        assert found is not None and found == newest_complete(looked_at)
        step = int(found.name.rsplit("-", 1)[-1])
        assert step >= before[-1] > reached
        stored = {name: data for name, data in files_of(found).items() if name != MANIFEST_NAME}
        assert stored == worker.contents(step)
        reached = step


@pytest.mark.slow
def test_sigterm_leaves_a_complete_checkpoint_within_the_grace_period(
    remote: RemoteCheckpoints, tmp_path: Path
) -> None:
    root = empty(tmp_path, "disk")
    process = start(root, steps=1000, pause=0.2)
    wait_until(lambda: last_offered(root) >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SIGTERM_GRACE_SECONDS) == 0
    last = last_offered(root)
    assert remote.complete()[-1] == last
    other = empty(tmp_path, "other")
    found = remote.fetch(other)
    assert found == other / f"checkpoint-{last}"
    assert {name: data for name, data in files_of(found).items() if name != MANIFEST_NAME} == (
        worker.contents(last)
    )
