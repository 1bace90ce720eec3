"""Several processes for one training: torchrun underneath, one result and one log above.

The stage's own process stays in charge: it prepares the corpus, keeps the tracking run
and reads what the first worker writes. Workers share nothing with it but a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ytrainer_core.config import LaunchConfig
from ytrainer_core.errors import ERRORS, Cancelled, ConfigError, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.training.deepspeed import check_deepspeed
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.torchrun import ENDS_NAME
from ytrainer_core.training.work import TrainingTask, training_config

TASK_NAME = "task.json"
METRICS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
ERROR_NAME = "error.json"
_POLL_SECONDS = 0.2
_TORCHRUN_GRACE_SECONDS = 30
"""How long torchrun waits for workers that it asked to end, before it kills them."""

_GRACE_SECONDS = 2 * _TORCHRUN_GRACE_SECONDS
"""How long torchrun may take to end its workers after an error here."""

_STDERR = 2
"""File descriptor; sys.stderr may be somebody's buffer."""


def launch(task: TrainingTask, config: LaunchConfig, log: Log) -> TrainResult:
    """Perform the task in `config.processes` processes of this machine and return its result.

    Raises the first error that a worker told, and YTrainerError where one died without a word.
    SIGTERM is handed on, and the workers write a checkpoint before they end.
    """
    import torch

    check_deepspeed(training_config(task))
    gpus = torch.cuda.device_count()
    if gpus and config.processes > gpus:
        raise ConfigError(
            f"launch.processes={config.processes}: this machine has {gpus} GPUs, and each takes "
            f"one process. Set launch.processes={gpus}."
        )
    threads = max(1, (os.cpu_count() or 1) // config.processes)
    environment = {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(dir=task.root, prefix=".launch.") as name:
        folder = Path(name)
        write_json(folder / TASK_NAME, {"task": asdict(task), "parent": os.getpid()})
        words = (str(folder), str(config.processes), str(os.getpid()))
        process = subprocess.Popen(
            [sys.executable, "-m", "ytrainer_core.training.torchrun", *words],
            env=environment | os.environ,
            stdout=_STDERR,  # this process' own output may be read by a machine
            start_new_session=True,  # Ctrl-C is for this process to act on
        )
        asked = threading.Event()
        try:
            with _handing_on(process, asked):
                _follow(process, folder / METRICS_NAME, log)
        finally:
            _end(process)
        result = folder / RESULT_NAME
        if process.returncode == 0 and result.exists():
            return TrainResult(**json.loads(result.read_text(encoding="utf-8")))
        raise _error(folder, process.returncode, asked.is_set())


def _follow(process: subprocess.Popen[bytes], metrics: Path, log: Log) -> None:
    """Pass on the metrics that the first worker writes, until all workers have ended."""
    read = 0
    while True:
        ended = process.poll() is not None
        if metrics.exists():
            with metrics.open("rb") as file:
                file.seek(read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    read += len(line)
                    row = json.loads(line)
                    log(row["metrics"], row["step"])
        if ended:
            return
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _handing_on(process: subprocess.Popen[bytes], asked: threading.Event) -> Iterator[None]:
    """Hand SIGTERM on to the workers instead of dying before them; `asked` tells that it came.

    Past torchrun, which would kill them half a minute later.
    """

    def to_workers(*_: object) -> None:
        asked.set()
        workers = _children(process)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.terminate()
        if not workers:
            process.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, to_workers)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """No worker outlives this call; each has a session of its own."""
    workers = _children(process)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    process.kill()
    process.wait()


def _error(folder: Path, code: int, asked: bool) -> YTrainerError:
    """What the workers died of. asked: whether they were asked to stop.

    An error that one of them told comes before how another ended, for it ends the others too.
    """
    files = sorted(folder.glob(f"{ERROR_NAME}.*"), key=lambda file: file.stat().st_mtime_ns)
    told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for error in told:
        if error["kind"] in ERRORS and error["kind"] != Cancelled.__name__:
            return ERRORS[error["kind"]](*error["faults"])
    for end in _first_ends(folder):
        if end["code"] < 0 and not (asked and -end["code"] == signal.SIGTERM):
            return _killed(end["process"], -end["code"])
    for error in told:
        if error["kind"] == Cancelled.__name__:
            return Cancelled(*error["faults"])
    if asked:
        return Cancelled(
            "stopped by SIGTERM before a step was done. The same command continues from the last "
            "checkpoint, if there is one."
        )
    if told:
        trace = told[0]["faults"][0].strip()
        print(trace, file=sys.stderr)
        return YTrainerError(f"a training process failed: {trace.splitlines()[-1]}")
    return (
        _killed(None, -code)
        if code < 0
        else YTrainerError(f"torchrun ended with code {code}. Its output is above.")
    )


def _first_ends(folder: Path) -> list[dict[str, Any]]:
    """How workers ended, without those that torchrun killed afterwards."""
    try:
        ends: list[dict[str, Any]] = json.loads((folder / ENDS_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    first = min(end["seconds"] for end in ends)
    return [end for end in ends if end["seconds"] - first < _TORCHRUN_GRACE_SECONDS / 2]


def _killed(process: int | None, number: int) -> YTrainerError:
    which = "torchrun" if process is None else f"training process {process}"
    reason = ", which the system does where memory runs out" if number == signal.SIGKILL else ""
    return YTrainerError(
        f"{which} was ended by {signal.Signals(number).name}{reason}. The same command continues "
        "from the last checkpoint. If memory is short: train.per_device_batch_size=1, "
        "train.gradient_checkpointing=true, or fewer launch.processes."
    )
