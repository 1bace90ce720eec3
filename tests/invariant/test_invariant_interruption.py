"""Killed, asked to stop, started again: the weights are those of a training nobody disturbed.

Every training here is a process of its own, forked so that it need not import torch again,
and ended by a real signal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ytrainer_core.config import LoraConfig
from ytrainer_core.errors import Cancelled
from ytrainer_core.training.checkpoints import newest_complete
from ytrainer_core.training.engine import train
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]
KILLS = 20
STEPS = 200
SAVE_STEPS = 3
LENGTHS = [17, 32, 18, 31, 20, 29, 22]  # one pack each: seven steps an epoch


class Training:
    """One training in a folder; `start` forks a process that works on it."""

    def __init__(self, folder: Path, make: Callable[[], Any], run: Callable[..., Any]) -> None:
        self.folder, self._make, self._run = folder, make, run
        self._steps = folder / "steps"
        folder.mkdir()

    def start(self) -> int:
        """Process id. It writes its step into a file, and its weights at the end."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            model = self._make()
            self._run(model, self.folder / "work", self._step)
            weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
            save_file(weights, self.folder / "weights.safetensors")
            code = 0
        except Cancelled as error:
            (self.folder / "said").write_text(str(error))
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _step(self, metrics: Mapping[str, float], step: int) -> None:
        self._steps.write_text(str(step))

    def wait_for(self, step: int, pid: int) -> None:
        """Until the process has logged that step; fails where it ends or stands still."""
        deadline = time.monotonic() + 60
        while self.step() < step:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the training ended"
            assert time.monotonic() < deadline, f"no step {step} within a minute"
            time.sleep(0.002)

    def step(self) -> int:
        """The step that was logged last."""
        text = self._steps.read_text() if self._steps.exists() else ""
        return int(text or 0)

    def finish(self) -> dict[str, torch.Tensor]:
        """Let it run to its end."""
        assert os.waitstatus_to_exitcode(os.waitpid(self.start(), 0)[1]) == 0
        return load_file(self.folder / "weights.safetensors")


@pytest.fixture
def training(make_model: Make, make_rows: Make, make_job: Make, tokenizer: Any, tmp_path: Path):
    """training(name, kind, steps) -> Training with dropout, shuffled, at a falling rate."""

    def make(name: str, kind: str, steps: int = STEPS) -> Training:
        def model() -> Any:
            plain = make_model(num_hidden_layers=1)
            if kind == "full":
                return plain
            torch.manual_seed(0)
            return add_lora(plain, LoraConfig(rank=4, dropout=0.1))

        job = make_job(
            max_steps=steps,
            save_steps=SAVE_STEPS,
            gradient_accumulation_steps=2,
            optim={"lr_scheduler": "cosine", "warmup_steps": 2},
        )

        def run(model: Any, folder: Path, log: Any) -> None:
            train(model, tokenizer, make_rows(LENGTHS), job, checkpoints=folder, log=log)

        return Training(tmp_path / name, model, run)

    return make


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
        pid = killed.start()
        killed.wait_for(killed.step() + moments.randint(1, 8), pid)
        time.sleep(moments.random() * 0.02)  # within a step, or while a checkpoint is written
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert newest_complete(killed.folder / "work") is not None
    assert_equal_bits(killed.finish(), straight)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sigterm_writes_a_checkpoint_and_the_next_start_goes_on_from_it(
    kind: str, training: Callable[..., Training]
) -> None:
    straight = training("straight", kind, 60).finish()
    stopped = training("stopped", kind, 60)
    for wait in (10, 37):
        pid = stopped.start()
        stopped.wait_for(wait, pid)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Cancelled.exit_code
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
        pid = stopped.start()
        stopped.wait_for(wait, pid)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    checkpoint = newest_complete(stopped.folder / "work")
    counters = json.loads((checkpoint / "ytrainer-counters.json").read_text())
    epochs, rest = divmod(stopped.step(), 4)  # four steps an epoch: 2 + 2 + 2 + 1 packs
    targets = sum(LENGTHS) - 2 * len(LENGTHS)
    assert epochs * targets <= counters["target_tokens"] < (epochs + 1) * targets
    assert rest or counters["target_tokens"] == epochs * targets
