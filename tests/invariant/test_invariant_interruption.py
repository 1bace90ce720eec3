"""Killed, asked to stop, started again: the weights are those of a training nobody disturbed.

Every training here is a process of its own, ended by a real signal.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interrupted import Training, ended
from interruption_worker import LENGTHS, PROMPT, work

from ytrainer_core.errors import Cancelled
from ytrainer_core.training.checkpoints import newest_complete

PRELOADED = [
    "peft",
    "ytrainer_core.training.engine",
    "ytrainer_core.training.model",
    "ytrainer_core.training.scratch",
    "transformers.models.qwen3.modeling_qwen3",
]
KILLS = 20
STEPS = 200


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., Training]:
    """training(name, kind, steps) -> Training."""
    return lambda name, kind, steps=STEPS: Training(tmp_path / name, kind, steps, work, PRELOADED)


def assert_equal_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_at_twenty_random_moments_it_ends_with_the_same_weights(
    kind: str, training: Callable[..., Training]
) -> None:
    straight = training("straight", kind).finish()
    killed = training("killed", kind)
    moments = random.Random(kind)
    for _ in range(KILLS):
        process = killed.start()
        killed.wait_for(killed.step() + moments.randint(1, 8), process)
        time.sleep(moments.random() * 0.02)  # within a step, or while a checkpoint is written
        process.kill()
        assert ended(process) == -signal.SIGKILL
    assert newest_complete(killed.folder / "work") is not None
    assert_equal_bits(killed.finish(), straight)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sigterm_writes_a_checkpoint_and_the_next_start_goes_on_from_it(
    kind: str, training: Callable[..., Training]
) -> None:
    straight = training("straight", kind, 60).finish()
    stopped = training("stopped", kind, 60)
    for wait in (10, 37):
        process = stopped.start()
        stopped.wait_for(wait, process)
        process.terminate()
        assert ended(process) == Cancelled.exit_code
        said = (stopped.folder / "said").read_text()
        checkpoint = newest_complete(stopped.folder / "work")
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{stopped.step()}"
        assert f"after step {stopped.step()} of 60" in said
    assert_equal_bits(stopped.finish(), straight)


def test_what_was_counted_before_the_interruption_counts(
    training: Callable[..., Training],
) -> None:
    """The checkpoint knows the targets of all steps before it, over all starts."""
    stopped = training("stopped", "full")
    for wait in (10, 20):
        process = stopped.start()
        stopped.wait_for(wait, process)
        process.terminate()
        ended(process)
    checkpoint = newest_complete(stopped.folder / "work")
    counters = json.loads((checkpoint / "ytrainer-counters.json").read_text())
    epochs, rest = divmod(stopped.step(), 4)  # four steps an epoch: 2 + 2 + 2 + 1 packs
    targets = sum(LENGTHS) - PROMPT * len(LENGTHS)
    assert epochs * targets <= counters["target_tokens"] < (epochs + 1) * targets
    assert rest or counters["target_tokens"] == epochs * targets
