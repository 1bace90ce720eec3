"""What happens around the steps: the bar, the log, checkpoints, kept epochs, SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from ytrainer_core.config import TrainConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home
from ytrainer_core.progress import Progress
from ytrainer_core.training.checkpoints import seal
from ytrainer_core.training.job import Log
from ytrainer_core.training.remote_checkpoints import Uploads


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Passes log rows on, moves the progress bar, seals checkpoints; on the first process only."""

    def __init__(self, log: Log, title: str) -> None:
        self._log, self._title, self._progress = log, title, contextlib.ExitStack()
        self._bar: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            self._bar = self._progress.enter_context(Progress(self._title, state.max_steps))
            self._bar.advance(state.global_step)
        self._loss = ""

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self._bar:
            self._bar.advance(note=self._loss)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers:
            self._loss = f"loss {numbers['loss']:.3f}"
        if state.is_world_process_zero:
            self._log(numbers, state.global_step)

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        self._progress.close()


class StoreCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Has every sealed checkpoint stored while training goes on; on the first process only."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            self._uploads.offer(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StopOnSigterm(TrainerCallback):  # type: ignore[misc]
    """On SIGTERM, which a cluster sends before it takes a machine: a checkpoint, then the end."""

    def __init__(self, any_process: Callable[[bool], bool]) -> None:
        """any_process: whether the flag is up in one of the processes; asked after every step."""
        self.asked = False
        self.stopped_at = 0
        self._any_process = any_process
        self._before: Any = None

    def __enter__(self) -> StopOnSigterm:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self._any_process(self.asked) and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = True
            control.should_training_stop = True


class KeepEpochs(TrainerCallback):  # type: ignore[misc]
    """Hands the model over after chosen epochs, counted from 1."""

    def __init__(self, epochs: tuple[int, ...], keep: Callable[[int], None]) -> None:
        self._epochs, self._keep = epochs, keep

    def on_epoch_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        # a training that was told to stop inside an epoch ends it too
        done = abs(state.epoch - round(state.epoch)) < 1e-6
        if done and round(state.epoch) in self._epochs:
            self._keep(round(state.epoch))


def early_stopping(config: TrainConfig) -> list[TrainerCallback]:
    """The callback that stops early, if any."""
    stop = config.early_stopping
    if not stop.patience:
        return []
    return [EarlyStoppingCallback(stop.patience, stop.min_delta)]


def tensorboard(config: TrainConfig, key: str) -> list[TrainerCallback]:
    """Event files below home()/tensorboard, one folder for each piece of work; if asked for."""
    if not config.tensorboard:
        return []
    from transformers.integrations import TensorBoardCallback

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "train.tensorboard: the package is missing. pip install 'ytrainer[tensorboard]'."
        ) from error
    return [TensorBoardCallback(SummaryWriter(str(home() / "tensorboard" / key)))]


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in one of the processes."""
    if not torch.distributed.is_initialized():
        return flag
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised.item())
