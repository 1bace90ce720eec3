"""Killed, and each restart on an empty disk: the weights are those of a training left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lost_machine_worker as worker
import pytest
import torch
from interrupted import step_of
from interruption_worker import SAVE_STEPS
from object_storage import s3_bucket
from safetensors.torch import load_file

from ytrainer_core.errors import Cancelled
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints

KILLS = 5
STEPS = 120
PAUSE_SECONDS = 0.3
SIGTERM_GRACE_SECONDS = 30
SECONDS = 600

Start = Callable[[Path, str, float], subprocess.Popen[bytes]]


@pytest.fixture
def bucket() -> Iterator[str]:
    """Address in a bucket of a real S3 server on this machine."""
    with s3_bucket("lost") as made:
        yield f"s3://{made.name}/checkpoints"


@pytest.fixture
def start() -> Iterator[Start]:
    """start(machine, address, pause) -> a training on a disk of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def do(machine: Path, address: str, pause: float) -> subprocess.Popen[bytes]:
        started.append(begin(machine, address, pause))
        return started[-1]

    yield do
    for process in started:
        process.kill()
        process.wait()


def begin(machine: Path, address: str, pause: float) -> subprocess.Popen[bytes]:
    words = [str(machine), "full", str(STEPS), address, str(pause)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, worker.__file__, *words], env=environment)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert process.poll() is None, "the training ended"
        assert time.monotonic() < deadline, f"nothing within {SECONDS} s"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_five_times_with_every_disk_lost_it_ends_with_the_same_weights(
    bucket: str, start: Start, tmp_path: Path
) -> None:
    straight = tmp_path / "straight"
    assert start(straight, "", 0.0).wait(SECONDS) == 0
    remote = RemoteCheckpoints(f"{bucket}/killed", worker.KEY, keep=2)
    moments = random.Random(3)
    reached = 0
    for life in range(KILLS):
        machine = tmp_path / f"machine-{life}"
        process = start(machine, f"{bucket}/killed", PAUSE_SECONDS)
        wait_until(lambda machine=machine: step_of(machine) > 0, process)  # type: ignore[misc]
        assert step_of(machine) > reached  # it went on, and did not begin anew
        wait_until(lambda reached=reached: remote.complete()[-1:] > [reached], process)  # type: ignore[misc]
        time.sleep(moments.random())
        process.kill()
        assert process.wait(SECONDS) == -signal.SIGKILL
        reached = remote.complete()[-1]
        assert reached % SAVE_STEPS == 0 and reached <= step_of(machine)
    last = tmp_path / "last"
    assert start(last, f"{bucket}/killed", 0.0).wait(SECONDS) == 0
    found, wanted = (load_file(m / "weights.safetensors") for m in (last, straight))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.slow
def test_sigterm_leaves_the_step_it_came_in_stored_within_the_grace_period(
    bucket: str, start: Start, tmp_path: Path
) -> None:
    machine = tmp_path / "machine"
    process = start(machine, bucket, PAUSE_SECONDS)
    wait_until(lambda: step_of(machine) >= SAVE_STEPS + 2, process)
    process.terminate()
    assert process.wait(SIGTERM_GRACE_SECONDS) == Cancelled.exit_code
    remote = RemoteCheckpoints(bucket, worker.KEY, keep=2)
    assert remote.complete()[-1] == step_of(machine)
    other = tmp_path / "other"
    other.mkdir()
    found = remote.fetch(other)
    assert found == other / f"checkpoint-{step_of(machine)}"
