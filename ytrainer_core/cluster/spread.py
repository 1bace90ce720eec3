"""A training task on several nodes: the same task, metrics and result as on one machine.

The task's own folder must lie on a volume that this pod and all nodes share: the task goes
there, and what the first worker writes is read from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.launch import POLL_SECONDS, owner_pod, run_trainjob
from ytrainer_core.cluster.trainjob import Nodes, trainjob_manifest
from ytrainer_core.errors import ERRORS, Cancelled, StageFailed, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.training.deepspeed import check_deepspeed
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME
from ytrainer_core.training.work import TrainingTask, training_config

FOLDER_NAME = "nodes"
_ANOTHER_MACHINE = 0
"""In place of a parent's process id: there is none on the nodes to end with."""


def launch_on_nodes(
    task: TrainingTask,
    nodes: Nodes,
    log: Log,
    *,
    api: KubernetesApi,
    pod: str,
    say: Callable[[str], None],
    poll_seconds: float = POLL_SECONDS,
) -> TrainResult:
    """Perform the task on the machines of a TrainJob and return its result.

    pod: the one this runs in, which owns the TrainJob. say: told of states, and every line of the
    first node. Raises the first error that a worker told, else what `run_trainjob` raises.
    """
    check_deepspeed(training_config(task))
    root = Path(task.root)
    folder = root / FOLDER_NAME
    name = f"ytrainer-{root.name}"
    manifest = trainjob_manifest(name, str(folder), nodes, owner=owner_pod(api, pod))
    metrics = _Metrics(folder / METRICS_NAME, log)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / TASK_NAME, {"task": asdict(task), "parent": _ANOTHER_MACHINE})

    try:
        run_trainjob(
            api,
            manifest,
            say=say,
            prepare=prepare,
            look=metrics.pass_on,
            poll_seconds=poll_seconds,
        )
    except StageFailed as error:
        raise _told(folder) or error from None
    metrics.pass_on()
    result = folder / RESULT_NAME
    if not result.exists():
        raise _told(folder, Cancelled) or StageFailed(
            f"TrainJob {name}: is complete, but left no result in {folder}. Check that the volume "
            "is one that all nodes and this pod share."
        )
    return TrainResult(**json.loads(result.read_text(encoding="utf-8")))


class _Metrics:
    """What the first worker appends to a file, passed on once, line by line."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log, self._read = path, log, 0

    def pass_on(self) -> None:
        """The lines that have come since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._read += len(line)
                row = json.loads(line)
                self._log(row["metrics"], row["step"])


def _told(folder: Path, *also: type[YTrainerError]) -> YTrainerError | None:
    """The first error that a worker told, those of being stopped only where they are asked for."""
    files = sorted(folder.glob(f"{ERROR_NAME}.*"), key=lambda file: file.stat().st_mtime_ns)
    for file in files:
        error = json.loads(file.read_text(encoding="utf-8"))
        kind = ERRORS.get(error["kind"])
        if kind and (kind is not Cancelled or kind in also):
            return kind(*error["faults"])
    return None
