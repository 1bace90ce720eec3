"""Trainings as processes of their own, which tests kill, stop and start again.

They are forked from a server that has imported torch and run nothing, since a process that has
trained cannot be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Log = Callable[[Mapping[str, float], int], None]

_STEP_SECONDS = 120
_END_SECONDS = 180


def tell_step(folder: Path, step: int) -> None:
    """Write the step whole: who reads it, or kills the process meanwhile, finds it or the last."""
    new = folder / "steps.new"
    new.write_text(str(step))
    new.replace(folder / "steps")


def step_of(folder: Path) -> int:
    """The step that was told last; 0 where none was."""
    file = folder / "steps"
    return int(file.read_text()) if file.exists() else 0


def as_process(folder: Path, train: Callable[[Log], Any]) -> None:
    """The whole life of such a process: writes its steps, its model's weights at the end.

    train: given the log, trains and returns the model.
    """
    import torch
    from safetensors.torch import save_file

    from ytrainer_core.errors import Cancelled

    def log(metrics: Mapping[str, float], step: int) -> None:
        tell_step(folder, step)

    torch.set_num_threads(1)
    code = 1
    try:
        model = train(log)
        weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
        save_file(weights, folder / "weights.safetensors")
        code = 0
    except Cancelled as error:
        (folder / "said").write_text(str(error))
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Training:
    """One training in a folder; `start` makes a process that works on it.

    work: called with the folder, the kind and the number of steps. preloaded: modules that the
    server imports before it forks.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        steps: int,
        work: Callable[[Path, str, int], None],
        preloaded: Sequence[str],
    ) -> None:
        self.folder = folder
        self._work, self._arguments = work, (folder, kind, steps)
        folder.mkdir()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(list(preloaded))

    def start(self) -> BaseProcess:
        """A process that begins, or goes on from the newest checkpoint."""
        process = self._processes.Process(target=self._work, args=self._arguments, daemon=True)
        process.start()
        return process

    def wait_for(self, step: int, process: BaseProcess) -> None:
        """Until the process has logged that step; fails where it ends or stands still."""
        deadline = time.monotonic() + _STEP_SECONDS
        while self.step() < step:
            assert process.exitcode is None, "the training ended"
            assert time.monotonic() < deadline, f"no step {step} within {_STEP_SECONDS} s"
            time.sleep(0.002)

    def step(self) -> int:
        """The step that was logged last."""
        return step_of(self.folder)

    def finish(self) -> Any:
        """Let it run to its end; its weights by name."""
        from safetensors.torch import load_file

        assert ended(self.start()) == 0
        return load_file(self.folder / "weights.safetensors")


def ended(process: BaseProcess) -> int | None:
    """Exit code of a process that ends soon; the negative signal where one killed it."""
    process.join(_END_SECONDS)
    return process.exitcode
