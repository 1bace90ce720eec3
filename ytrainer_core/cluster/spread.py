"""A training task on several nodes: the same task, metrics and result as on one machine.

The task's own folder must lie on a volume that this pod and all nodes share: the task goes
there with what it reads, and what the first worker writes is read from there.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.launch import POLL_SECONDS, owner_pod, run_trainjob
from ytrainer_core.cluster.trainjob import Nodes, is_shared, trainjob_manifest
from ytrainer_core.config import PretrainConfig, SftConfig
from ytrainer_core.errors import ERRORS, Cancelled, ConfigError, StageFailed, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.training.deepspeed import check_deepspeed
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME
from ytrainer_core.training.work import TrainingTask, training_config

FOLDER_NAME = "nodes"
_ANOTHER_MACHINE = 0
"""In place of a parent's process id: there is none on the nodes to end with."""

_ATTEMPT_LABEL = "ytrainer/attempt"
"""Tells whether a TrainJob works on the task that lies in the folder now."""

_INPUTS = ("corpus", "base", "order_file")
"""Fields of a task that name what it reads."""


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
    config = training_config(task)
    check_deepspeed(config)
    _check_paths(config, nodes)
    root = Path(task.root)
    folder = root / FOLDER_NAME
    name = f"ytrainer-{root.name}"
    attempt = _attempt(folder)
    manifest = trainjob_manifest(
        name, str(folder), nodes, labels={_ATTEMPT_LABEL: attempt}, owner=owner_pod(api, pod)
    )
    metrics = _Metrics(folder / METRICS_NAME, log)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        seen = asdict(_with_inputs_shared(task, nodes, folder, say))
        tree = {"task": seen, "parent": _ANOTHER_MACHINE, "attempt": attempt}
        write_json(folder / TASK_NAME, tree)

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
        raise _told(folder) or StageFailed(
            f"TrainJob {name}: is complete, but left no result in {folder}. Check that the volume "
            "is one that all nodes and this pod share."
        )
    return TrainResult(**json.loads(result.read_text(encoding="utf-8")))


def _attempt(folder: Path) -> str:
    """Name of the attempt whose task lies in the folder, a new one where none does."""
    try:
        return str(json.loads((folder / TASK_NAME).read_text(encoding="utf-8"))["attempt"])
    except (OSError, ValueError, KeyError):
        return uuid.uuid4().hex


def _check_paths(config: SftConfig | PretrainConfig, nodes: Nodes) -> None:
    """Raise ConfigError where a file that the workers read by its name lies on this pod alone."""
    faults = [
        f"{name}={path}: lies on no volume that the nodes share. Put it on one, best below "
        "YTRAINER_HOME, and give its whole path."
        for name, path in _named_paths(config)
        if path.exists() and not (path.is_absolute() and is_shared(path, nodes))
    ]
    if faults:
        raise ConfigError(*faults)


def _named_paths(config: SftConfig | PretrainConfig) -> Iterator[tuple[str, Path]]:
    for name, value in (
        ("model.init_from", config.model.init_from),
        ("objective.distillation.teacher", config.objective.distillation.teacher),
        ("launch.deepspeed_config", config.launch.deepspeed_config),
    ):
        if value:
            yield name, Path(value).expanduser()


def _with_inputs_shared(
    task: TrainingTask, nodes: Nodes, folder: Path, say: Callable[[str], None]
) -> TrainingTask:
    """The task with its inputs where the nodes see them; others are copied into `folder` first.

    A pipeline hands a step its artifacts on a disk of the step's own.
    """
    copied: dict[str, Any] = {}
    for name in _INPUTS:
        path = Path(getattr(task, name)).absolute()
        if not getattr(task, name) or is_shared(path, nodes):
            continue
        target = folder / name
        say(f"{path}: is copied to {target}, where the nodes see it")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)
        copied[name] = str(target)
    return replace(task, **copied)


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


def _told(folder: Path) -> YTrainerError | None:
    """The first error that workers told in their own words, if any.

    That they were stopped counts only where nothing went wrong before it; whatever comes after it,
    the nodes that end leave to the others.
    """
    files = sorted(folder.glob(f"{ERROR_NAME}.*"), key=lambda file: file.stat().st_mtime_ns)
    trees = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    told = [(ERRORS.get(tree["kind"]), tree["faults"]) for tree in trees]
    for kind, faults in told:
        if kind and kind is not Cancelled:
            return kind(*faults)
    if told and told[0][0] is Cancelled:
        return Cancelled(*told[0][1])
    return None
