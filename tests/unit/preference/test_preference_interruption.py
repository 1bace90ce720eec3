"""Killed or asked to stop, and started again: the weights of a training nobody disturbed.

Every training here is a process of its own, ended by a real signal.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from preference_worker import work
from safetensors.torch import load_file

from ytrainer_core.errors import Cancelled
from ytrainer_core.training.checkpoints import newest_complete

PRELOADED = ["peft", "ytrainer_core.preference.engine", "ytrainer_core.training.scratch"]
STEPS, KILLS = 60, 5


class Training:
    """One training in a folder; `start` makes a process that works on it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self._kind = folder, kind
        folder.mkdir()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)

    def start(self) -> BaseProcess:
        """A process that begins, or goes on from the newest checkpoint."""
        process = self._processes.Process(
            target=work, args=(self.folder, self._kind, STEPS), daemon=True
        )
        process.start()
        return process

    def wait_for(self, step: int, process: BaseProcess) -> None:
        """Until the process has logged that step; fails where it ends or stands still."""
        deadline = time.monotonic() + 120
        while self.step() < step:
            assert process.exitcode is None, "the training ended"
            assert time.monotonic() < deadline, f"no step {step} within two minutes"
            time.sleep(0.002)

    def step(self) -> int:
        """The step that was logged last."""
        file = self.folder / "steps"
        return int((file.read_text() if file.exists() else "") or 0)

    def finish(self) -> dict[str, torch.Tensor]:
        """Let it run to its end."""
        assert ended(self.start()) == 0
        return load_file(self.folder / "weights.safetensors")


def ended(process: BaseProcess) -> int | None:
    process.join(180)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_and_asked_to_stop_it_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    straight = Training(tmp_path / "straight", kind).finish()
    disturbed = Training(tmp_path / "disturbed", kind)
    moments = random.Random(kind)
    for _ in range(KILLS):
        process = disturbed.start()
        disturbed.wait_for(disturbed.step() + moments.randint(1, 8), process)
        time.sleep(moments.random() * 0.02)  # within a step, or while a checkpoint is written
        process.kill()
        assert ended(process) == -signal.SIGKILL
    process = disturbed.start()
    disturbed.wait_for(disturbed.step() + 2, process)
    process.terminate()
    assert ended(process) == Cancelled.exit_code
    checkpoint = newest_complete(disturbed.folder / "work")
    assert checkpoint is not None and checkpoint.name == f"checkpoint-{disturbed.step()}"
    assert f"of {STEPS}; a checkpoint is written" in (disturbed.folder / "said").read_text()
    found = disturbed.finish()
    assert found.keys() == straight.keys()
    assert [name for name in straight if not torch.equal(found[name], straight[name])] == []
