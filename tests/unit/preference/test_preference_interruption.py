"""Killed or asked to stop, and started again: the weights of a training nobody disturbed.

Every training here is a process of its own, ended by a real signal.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from interrupted import Training, ended
from preference_worker import work

from ytrainer_core.errors import Cancelled
from ytrainer_core.training.checkpoints import newest_complete

PRELOADED = ["peft", "ytrainer_core.preference.engine", "ytrainer_core.training.scratch"]
STEPS, KILLS = 60, 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_and_asked_to_stop_it_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    straight, disturbed = (
        Training(tmp_path / name, kind, STEPS, work, PRELOADED)
        for name in ("straight", "disturbed")
    )
    wanted = straight.finish()
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
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
