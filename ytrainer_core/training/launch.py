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

import psutil

from ytrainer_core.config import LaunchConfig
from ytrainer_core.errors import ERRORS, ConfigError, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.work import TrainingTask

TASK_NAME = "task.json"
METRICS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
ERROR_NAME = "error.json"
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60
"""How long torchrun may take to end its workers after an error here."""


def launch(task: TrainingTask, config: LaunchConfig, log: Log) -> TrainResult:
    """Perform the task in `config.processes` processes of this machine and return its result.

    Raises the first error that a worker told, and YTrainerError where one died without a word.
    SIGTERM is handed on, and the workers write a checkpoint before they end.
    """
    import torch

    gpus = torch.cuda.device_count()
    if gpus and config.processes > gpus:
        raise ConfigError(
            f"launch.processes={config.processes}: this machine has {gpus} GPUs, and each takes "
            f"one process. Set launch.processes={gpus}."
        )
    with tempfile.TemporaryDirectory(dir=task.root, prefix=".launch.") as name:
        folder = Path(name)
        write_json(
            folder / TASK_NAME,
            {"task": asdict(task), "launch": config.model_dump(), "parent": os.getpid()},
        )
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            f"--nproc-per-node={config.processes}",
            *("-m", "ytrainer_core.training.worker", str(folder)),
        ]
        threads = max(1, (os.cpu_count() or 1) // config.processes)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            with _handing_on(process):
                _follow(process, folder / METRICS_NAME, log)
        finally:
            _end(process)
        result = folder / RESULT_NAME
        if process.returncode == 0 and result.exists():
            return TrainResult(**json.loads(result.read_text(encoding="utf-8")))
        raise _error(folder, process.returncode)


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
def _handing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGTERM on to the workers instead of dying before them.

    Past torchrun, which would kill them half a minute later.
    """

    def to_workers(*_: object) -> None:
        for worker in psutil.Process(process.pid).children():
            worker.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, to_workers)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """No worker outlives this call; they have a session, and so a process group, of their own."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _error(folder: Path, code: int) -> YTrainerError:
    """What the workers died of; a cancelled one comes after any other error."""
    told = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob(f"{ERROR_NAME}*")]
    for kind in sorted({str(error["kind"]) for error in told}, key=lambda k: k == "Cancelled"):
        faults = next(error["faults"] for error in told if error["kind"] == kind)
        return ERRORS.get(kind, YTrainerError)(*faults)
    return YTrainerError(
        f"a training process ended with code {code} and without a word; out of memory, as a rule. "
        "Its output is above. The same command continues from the last checkpoint."
    )
