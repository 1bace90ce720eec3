"""A pipeline on a Kubeflow cluster: submitted, and followed to its end."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import PIPELINES
from pipelines.api import Api
from pipelines.arguments import arguments_of, placement_of
from pipelines.cluster import UNFINISHED, Cluster, PipelineVersion
from pipelines.compile import compile_to
from pipelines.configs import PIPELINE_CONFIGS
from pipelines.result import Result
from ytrainer_core import __version__
from ytrainer_core.config import STAGE_CONFIGS, narrow
from ytrainer_core.data.corpus import SPLITS
from ytrainer_core.demo.resources import PREFIX as DEMO
from ytrainer_core.errors import Cancelled, ConfigError, StageFailed, TimedOut, YTrainerError

_DIGEST_CHARACTERS = 8
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A run to be. name: says what it is made of, so that it is found again while it runs."""

    pipeline: str
    tree: Mapping[str, Any]
    name: str
    experiment: str


def submit(
    name: str, tree: Mapping[str, Any], path: Path | None, host: str, *, say: Callable[[str], None]
) -> str:
    """Start one run and return its URL. Raises ConfigError before anything is sent."""
    config: Any = narrow(PIPELINE_CONFIGS[name], tree, path)
    require_reachable(config)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    job = Job(name, tree, f"{name}-{stamp}", config.tracking.experiment)
    cluster = Cluster(Api(host, patience=_PATIENCE_SECONDS, deadline=float("inf"), say=say))
    run, _ = _start(cluster, job, _uploaded(cluster, job))
    return cluster.page_of(run.run_id)


def require_reachable(config: Any) -> None:
    """Refuse names that mean something on this machine only. Raises ConfigError."""
    named = {"model.name_or_path": (config.model.name_or_path,)}
    named |= {f"data.{split}": getattr(config.data, split) for split in SPLITS}
    faults = [
        f"{knob}: {name} exists only where it was made. Name a hub id, an s3:// address, or a "
        "path that the cluster's pods can read."
        for knob, names in named.items()
        for name in names
        if name.startswith(DEMO)
    ]
    if faults:
        raise ConfigError(*faults)


def run_remote(
    cluster: Cluster, job: Job, told: Result, *, poll: float, say: Callable[[str], None]
) -> None:
    """Run a job and wait until it has succeeded; told is filled in on the way.

    poll: seconds between two looks. Raises StageFailed with the steps that failed, Cancelled where
    it was cancelled here or there, TimedOut where the cluster's deadline has passed; of the last
    two nothing goes on running. An unfinished run of the same name is waited for in its place.
    """
    version = _uploaded(cluster, job)
    told.pipeline_version = version.name
    try:
        run, is_new = _start(cluster, job, version)
        told.run, told.url = str(run.run_id), cluster.page_of(run.run_id)
        say(f"{'started' if is_new else 'runs already'}: {told.url}")
        run = _follow(cluster, told, poll, say)
    except (KeyboardInterrupt, TimedOut) as ending:
        with _undisturbed():
            _terminate(cluster, job, told, ending)
    if run.state == "CANCELED":
        raise Cancelled(f"{told.url}: was cancelled on the cluster.")
    if run.state != "SUCCEEDED":
        raise StageFailed(f"{told.url}: ended as {run.state}.", *_errors(run))


def _uploaded(cluster: Cluster, job: Job) -> PipelineVersion:
    """The pipeline's version, named after the package and what the pipeline compiles to."""
    with tempfile.TemporaryDirectory(prefix="ytrainer.") as scratch:
        file = Path(scratch) / f"{job.pipeline}.yaml"
        compile_to(job.pipeline, file, placement_of(job.pipeline, job.tree))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"ytrainer-{__version__}-{digest}"
        return cluster.upload(f"ytrainer-{job.pipeline}", name, file)


def _start(cluster: Cluster, job: Job, version: PipelineVersion) -> tuple[Any, bool]:
    """(the job's run, whether it is new)."""
    arguments = arguments_of(job.pipeline, job.tree, PIPELINES[job.pipeline])
    return cluster.start(job.name, version, arguments, job.experiment)


def _follow(cluster: Cluster, told: Result, poll: float, say: Callable[[str], None]) -> Any:
    """Look at a run until it is over, telling what its steps do."""
    while True:
        run = cluster.run(told.run)
        for task in _steps(run):
            state = task.state or UNFINISHED[0]
            if told.tasks.get(task.display_name) != state:
                told.tasks[task.display_name] = state
                say(f"{task.display_name}: {state}")
        if (run.state or UNFINISHED[0]) not in UNFINISHED:
            say(f"the run: {run.state}")
            return run
        if time.monotonic() >= cluster.deadline:
            raise TimedOut(f"{told.url}: was not over in time (state {run.state}).")
        time.sleep(min(poll, max(0.0, cluster.deadline - time.monotonic())))


def _steps(run: Any) -> list[Any]:
    """Details of the steps that are ours; drivers and conditions are Kubeflow's."""
    details = (run.run_details.task_details if run.run_details else None) or []
    return [task for task in details if task.display_name in STAGE_CONFIGS]


def _errors(run: Any) -> list[str]:
    """What the run and its failed steps say of their failure."""
    faults = [f"{run.error.message}"] if run.error and run.error.message else []
    for task in _steps(run):
        if task.state == "FAILED":
            why = task.error.message if task.error and task.error.message else "see the step's log"
            faults.append(f"{task.display_name}: {why}")
    return faults


def _terminate(cluster: Cluster, job: Job, told: Result, ending: BaseException) -> None:
    """End the run on the cluster and say so. Always raises."""
    what = [str(ending)] if isinstance(ending, TimedOut) else ["cancelled."]
    kind = TimedOut if isinstance(ending, TimedOut) else Cancelled
    cluster.hurry()
    try:
        if not told.run and (run := cluster.find(job.name, job.experiment)):
            told.run, told.url = str(run.run_id), cluster.page_of(run.run_id)
        if told.run:
            cluster.terminate(told.run)
            what.append(f"{told.url}: the run is being terminated.")
    except YTrainerError as error:
        what += error.faults
        what.append(f"The run may go on; terminate it by hand: {told.url or cluster.host}")
    raise kind(*what) from ending


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second SIGTERM, which CI sends after seconds, does not break off what is done here."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
