"""Which run a stage writes to: a new one, the one it was given, or the one it continues."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.errors import YTrainerError
from ytrainer_core.tracking.delivery import ERROR_TAG
from ytrainer_core.tracking.leftovers import sweep_dead_runs
from ytrainer_core.tracking.process import PID_TAG, git_sha, process_tags, user
from ytrainer_core.tracking.run import MlflowRun, NullRun, Run
from ytrainer_core.tracking.store import (
    connect,
    experiment_id,
    store_errors,
    store_name,
    tracking_uri,
)
from ytrainer_core.tracking.text import flatten, without_password

PARENT_RUN_VARIABLE = "YTRAINER_PARENT_RUN_ID"
"""Environment variable by which our pipeline runner hands its run to the steps."""
INJECTED_RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Environment variable by which KFP hands a task the run that was made for it."""

PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "ytrainer.key"
STAGE_TAG = "ytrainer.stage"
RESTARTS_TAG = "ytrainer.restarts"
REQUEST_TAG = "ytrainer.request"

_START_SECONDS = 10.0
"""So long may a server take to answer at the start: one that restarts, not a wrong address."""
_START_PAUSE_SECONDS = 1.0

_logger = logging.getLogger(__name__)
_open_run: ContextVar[str] = ContextVar("ytrainer_open_run", default="")


@contextmanager
def open_run(
    stage: str,
    config: StageConfig,
    *,
    parent_run_id: str = "",
    resume_run_id: str = "",
    key: str = "",
) -> Iterator[Run]:
    """The run of one stage, open for the length of a `with` block.

    Which run, first match wins: `resume_run_id`; the run in MLFLOW_RUN_ID, which
    was made for this task (the variable is taken out of the environment, as
    mlflow.start_run does); else a run below `parent_run_id`, below the run that
    this process has open, or below the run in YTRAINER_PARENT_RUN_ID; else a run
    of its own. With `key` (identity of config, data and base), the newest run
    of that key, stage and parent is continued if it is KILLED or FAILED.

    The run ends FINISHED, FAILED (an exception) or KILLED (KeyboardInterrupt,
    SIGTERM). The resolved config is recorded as parameters.
    Raises YTrainerError where the store cannot be reached at the start; when it
    goes away later, the block is not disturbed and what it records waits on disk.
    """
    parent = parent_run_id or _open_run.get() or os.environ.get(PARENT_RUN_VARIABLE, "")
    run = _begin(stage, config, parent=parent, resume=resume_run_id, key=key)
    with _closing(run):
        yield run


@contextmanager
def open_pipeline_run(name: str, config: StageConfig, key: str = "") -> Iterator[Run]:
    """The parent run of a local pipeline; its runner exports run_id as YTRAINER_PARENT_RUN_ID.

    A run injected by MLFLOW_RUN_ID is the parent itself. Ends as open_run does.
    """
    run = _begin(f"pipeline/{name}", config, parent="", resume="", key=key)
    with _closing(run):
        yield run


def _begin(stage: str, config: StageConfig, *, parent: str, resume: str, key: str) -> Run:
    """Open, attach to, or continue a run; see open_run for which."""
    if not config.tracking.enabled:
        return NullRun()
    try:
        client = _connect_patiently(config.tracking)
    except ImportError:
        _logger.warning(
            "mlflow is not installed, so this run is not recorded. "
            "pip install 'ytrainer[pipelines]', or set tracking.enabled=false."
        )
        return NullRun()
    process = process_tags()
    with store_errors(config.tracking):
        run_id = _choose_run(client, stage, config, process, parent, resume, key)
    run = MlflowRun(client, run_id, store_name(config.tracking), process)
    tree = config.model_dump(mode="json")
    tree["tracking"]["uri"] = without_password(tree["tracking"]["uri"])
    run.params(flatten(tree))
    return run


def _connect_patiently(config: TrackingConfig) -> Any:
    """A client; a server that does not answer at once is asked again for some seconds."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return connect(config)
        except YTrainerError:
            is_server = tracking_uri(config).startswith("http")
            if not is_server or time.monotonic() >= deadline:
                raise
        time.sleep(_START_PAUSE_SECONDS)


def _choose_run(
    client: Any,
    stage: str,
    config: StageConfig,
    process: Mapping[str, str],
    parent: str,
    resume: str,
    key: str,
) -> str:
    identity = {**process, STAGE_TAG: stage} | ({KEY_TAG: key} if key else {})
    attached = resume or os.environ.pop(INJECTED_RUN_VARIABLE, "")
    if attached:
        return _continue(client, attached, identity)
    if parent:
        experiment = client.get_run(parent).info.experiment_id
    else:
        experiment = experiment_id(client, config.tracking)
    sweep_dead_runs(client, experiment)
    if key and (stopped := _stopped_run(client, experiment, stage, parent, key)):
        return _continue(client, stopped, identity)
    tags = {
        **identity,
        "mlflow.runName": stage,
        "mlflow.user": user(),
        "mlflow.source.name": sys.argv[0] or "python",
        "mlflow.source.type": "LOCAL",
    }
    if parent:
        tags[PARENT_TAG] = parent
    if sha := git_sha():
        tags["mlflow.source.git.commit"] = sha
    return _create(client, experiment, tags, stage)


def _create(client: Any, experiment: str, tags: Mapping[str, str], name: str) -> str:
    """A new run, and only one: MLflow's client asks again when it loses the answer."""
    request = uuid.uuid4().hex
    made = client.create_run(experiment, tags={**tags, REQUEST_TAG: request}, run_name=name)
    run_id = str(made.info.run_id)
    for run in client.search_runs([experiment], f"tags.`{REQUEST_TAG}` = '{request}'"):
        if run.info.run_id != run_id:
            client.delete_run(run.info.run_id)
    return run_id


def _stopped_run(client: Any, experiment: str, stage: str, parent: str, key: str) -> str:
    """The newest run of a key, if it was KILLED or FAILED; else empty.

    A newer run that finished, or that still runs, means that there is nothing to continue.
    """
    condition = f"tags.`{KEY_TAG}` = '{key}' and tags.`{STAGE_TAG}` = '{stage}'"
    if parent:
        condition += f" and tags.`{PARENT_TAG}` = '{parent}'"
    found = client.search_runs([experiment], condition, order_by=["attributes.start_time DESC"])
    newest = next((run for run in found if run.data.tags.get(PARENT_TAG, "") == parent), None)
    if newest is None or newest.info.status not in ("KILLED", "FAILED"):
        return ""
    return str(newest.info.run_id)


def _continue(client: Any, run_id: str, identity: Mapping[str, str]) -> str:
    """Set a run to RUNNING again, under this process."""
    from mlflow.entities import RunTag

    tags = client.get_run(run_id).data.tags
    client.update_run(run_id, status="RUNNING")
    restarts = int(tags.get(RESTARTS_TAG, "0")) + (PID_TAG in tags)
    new = [RunTag(name, value) for name, value in identity.items()]
    client.log_batch(run_id, tags=[*new, RunTag(RESTARTS_TAG, str(restarts))])
    if ERROR_TAG in tags:
        client.delete_tag(run_id, ERROR_TAG)
    return run_id


@contextmanager
def _closing(run: Run) -> Iterator[None]:
    """End a run with the status that fits how the block ended."""
    if not isinstance(run, MlflowRun):
        yield
        return
    token = _open_run.set(run.run_id)
    try:
        with _sigterm_interrupts():
            yield
    except KeyboardInterrupt as interrupt:
        run.end("KILLED", str(interrupt) or "interrupted")
        raise
    except SystemExit as leaving:
        run.end("FINISHED" if leaving.code in (None, 0) else "FAILED")
        raise
    except BaseException as error:
        run.end("FAILED", f"{type(error).__name__}: {error}")
        raise
    else:
        run.end("FINISHED")
    finally:
        _open_run.reset(token)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, unless somebody else handles it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
