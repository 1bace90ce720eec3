"""Where runs are recorded, so that every number can be traced to the run that made it.

One parent run per pipeline, one nested run per stage. A run that is opened here
is always closed with the truth: FINISHED, FAILED, KILLED, or, where the process
was killed without a word, KILLED by the next one that looks (`sweep_dead_runs`).
Recording never stops the training: when MLflow fails, one warning is given.

Runs are written through MlflowClient with an explicit URI; MLflow's process-wide
state (active run, tracking URI) is neither read nor changed, so that stages may
run in threads. This file and registry/ are the only ones that import mlflow.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psutil

from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import home

PARENT_RUN_VARIABLE = "YTRAINER_PARENT_RUN_ID"
"""Environment variable by which our pipeline runner hands its run to the steps."""
INJECTED_RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Environment variable by which KFP hands a task the run that was made for it."""

PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "ytrainer.key"
STAGE_TAG = "ytrainer.stage"
HOST_TAG = "ytrainer.host"
PID_TAG = "ytrainer.pid"
START_TAG = "ytrainer.process_start"
RESTARTS_TAG = "ytrainer.restarts"
ERROR_TAG = "ytrainer.error"

_PARAM_CHARACTERS = 6000  # MLflow's limit on a parameter's value
_TAG_CHARACTERS = 5000  # the least of MLflow's limits over its stores
_BATCH = 100  # MLflow's limit on parameters per request
_CLOCK_SECONDS = 5.0
"""Start times of one process may differ by this much: Linux derives them from the wall clock."""
_PAUSE_SECONDS = 30.0
"""After a failed write, metrics rest for this long: a dead server must not slow the training."""

_logger = logging.getLogger(__name__)
_open_run: ContextVar[str] = ContextVar("ytrainer_open_run", default="")


class Run(Protocol):
    """What a stage sees of its run. No method raises on account of MLflow."""

    run_id: str
    """MLflow's run id; empty where nothing is recorded."""

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at an optimizer step, all in one request."""

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters; over-long values are cut."""

    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None:
        """Record that this run read a data set (context: training, validation, evaluation)."""

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file, or all files of a folder, below `folder` of the run's artifacts."""

    def tag(self, name: str, value: object) -> None:
        """Set a tag; over-long values are cut."""


class NullRun:
    """The run of a process that records nothing."""

    run_id = ""

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None: ...
    def params(self, values: Mapping[str, object]) -> None: ...
    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None: ...
    def artifact(self, path: str | Path, folder: str = "") -> None: ...
    def tag(self, name: str, value: object) -> None: ...


class MlflowRun:
    """A run in an MLflow store. Made by open_run and open_pipeline_run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._warned: set[str] = set()
        self._paused_until = 0.0

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = []
        for name, value in metrics.items():
            try:
                batch.append(Metric(_metric_name(name), float(value), now, int(step)))
            except (TypeError, ValueError):
                self._warn(f"metric {name}", f"{value!r} is not a number")
        if time.monotonic() >= self._paused_until:
            self._write("metrics", lambda: self._client.log_batch(self.run_id, metrics=batch))

    def params(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        def write() -> None:
            known = self._client.get_run(self.run_id).data.params
            new = {}
            for name, value in values.items():
                text = _text(value)[:_PARAM_CHARACTERS]
                if known.get(name, text) != text:
                    reason = f"was {known[name]!r} and MLflow cannot change it to {text!r}"
                    self._warn(f"parameter {name}", reason)
                elif name not in known:
                    new[name] = text
            batch = [Param(_metric_name(name), text) for name, text in new.items()]
            for first in range(0, len(batch), _BATCH):
                self._client.log_batch(self.run_id, params=batch[first : first + _BATCH])

        self._write("parameters", write)

    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        uri = str(path)
        source_type = urlsplit(uri).scheme or "local"
        if source_type == "local":
            uri = str(Path(uri).absolute())
        dataset = Dataset(
            name=name,
            digest=sha256[:36],  # MLflow's limit; the whole one is the tag
            source_type=source_type,
            source=json.dumps({"uri": uri}),
        )
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", sha256)]
        inputs = [DatasetInput(dataset=dataset, tags=tags)]
        self._write("data sets", lambda: self._client.log_inputs(self.run_id, datasets=inputs))

    def artifact(self, path: str | Path, folder: str = "") -> None:
        local = Path(path)
        store = self._client.log_artifacts if local.is_dir() else self._client.log_artifact
        self._write("artifacts", lambda: store(self.run_id, str(local), folder or None))

    def tag(self, name: str, value: object) -> None:
        text = _text(value)[:_TAG_CHARACTERS]
        self._write("tags", lambda: self._client.set_tag(self.run_id, name, text))

    def end(self, status: str, reason: str = "") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._write("the status", lambda: self._client.set_terminated(self.run_id, status))
        if reason:
            self.tag(ERROR_TAG, reason)

    def _write(self, what: str, write: Callable[[], object]) -> None:
        """Write to the store; where that fails, say so once and let the training go on."""
        try:
            write()
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network may raise
            if not _is_refusal(error):  # a refused value must not cost the next ones
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
            self._warn(what, f"{type(error).__name__}: {first_line(error)}")

    def _warn(self, what: str, reason: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning(
                "MLflow run %s: %s not recorded (%s). The work goes on; this is said once.",
                self.run_id,
                what,
                reason,
            )


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
    Raises YTrainerError where the store cannot be reached at the start.
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


def tracking_uri(config: TrackingConfig) -> str:
    """Where runs go: the config's URI, else MLFLOW_TRACKING_URI, else sqlite in home()."""
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def registry_uri(config: TrackingConfig) -> str:
    """Where model versions go: MLFLOW_REGISTRY_URI, else where the runs go."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri(config)


def connect(config: TrackingConfig) -> Any:
    """An MlflowClient of the configured store, which is made if it is a new sqlite file.

    Raises ImportError where mlflow is not installed, YTrainerError where the
    store cannot be reached.
    """
    _quiet_mlflow()
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ.get("MLFLOW_LOGGING_LEVEL", "WARNING").upper())
    uri = tracking_uri(config)
    with store_errors(config):
        if database := _sqlite_file(uri):
            _make_database(database)
        client = MlflowClient(uri, registry_uri=registry_uri(config))
        client.search_experiments(max_results=1)  # fails here rather than in the middle
        return client


@contextmanager
def store_errors(config: TrackingConfig) -> Iterator[None]:
    """Turn MLflow's errors into a YTrainerError that names the store and the remedy."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise YTrainerError(
            f"tracking.uri {_without_password(tracking_uri(config))}: MLflow failed "
            f"({type(error).__name__}: {first_line(error)}). Start the server, correct the URI, "
            "or set tracking.enabled=false."
        ) from error


def experiment_id(client: Any, config: TrackingConfig) -> str:
    """Id of the configured experiment, made if missing.

    MLFLOW_EXPERIMENT_ID and MLFLOW_EXPERIMENT_NAME count where the config keeps its default.
    """
    name = config.experiment
    if name == TrackingConfig().experiment:
        if injected := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return injected
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
    found = client.get_experiment_by_name(name)
    if found is None:
        from mlflow.exceptions import MlflowException

        database = _sqlite_file(tracking_uri(config))
        # MLflow's default for sqlite is relative to the folder one happens to be in.
        location = str(database.parent / "mlartifacts") if database else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise YTrainerError(
            f"tracking.experiment '{name}' was deleted. Restore it in MLflow, or choose another."
        )
    return str(found.experiment_id)


def sweep_dead_runs(client: Any, experiment: str) -> list[str]:
    """End as KILLED the RUNNING runs of an experiment whose process on this host is gone.

    Returns their run ids.
    """
    condition = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{_host()}'"
    dead = [
        run.info.run_id
        for run in client.search_runs([experiment], condition, max_results=1000)
        if not _is_alive(run.data.tags.get(PID_TAG, ""), run.data.tags.get(START_TAG, ""))
    ]
    for run_id in dead:
        client.set_terminated(run_id, "KILLED")
        client.set_tag(run_id, ERROR_TAG, "the process vanished (SIGKILL, out of memory)")
    return dead


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim': {'learning_rate': 1}} -> {'optim.learning_rate': 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def git_sha() -> str:
    """Commit of ytrainer's code: YTRAINER_GIT_SHA, else its checkout's, else empty."""
    if sha := os.environ.get("YTRAINER_GIT_SHA"):
        return sha
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        # Without this, a venv inside somebody else's repository would give that one's commit.
        git("ls-files", "--error-unmatch", "errors.py")
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""


def _begin(stage: str, config: StageConfig, *, parent: str, resume: str, key: str) -> Run:
    """Open, attach to, or continue a run; see open_run for which."""
    if not config.tracking.enabled:
        return NullRun()
    try:
        client = connect(config.tracking)
    except ImportError:
        _logger.warning(
            "mlflow is not installed, so this run is not recorded. "
            "pip install 'ytrainer[pipelines]', or set tracking.enabled=false."
        )
        return NullRun()
    with store_errors(config.tracking):
        run = MlflowRun(client, _choose_run(client, stage, config, parent, resume, key))
    tree = config.model_dump(mode="json")
    tree["tracking"]["uri"] = _without_password(tree["tracking"]["uri"])
    run.params(flatten(tree))
    return run


def _choose_run(
    client: Any, stage: str, config: StageConfig, parent: str, resume: str, key: str
) -> str:
    process = {
        HOST_TAG: _host(),
        PID_TAG: str(os.getpid()),
        START_TAG: repr(psutil.Process().create_time()),
        STAGE_TAG: stage,
    }
    if key:
        process[KEY_TAG] = key
    attached = resume or os.environ.pop(INJECTED_RUN_VARIABLE, "")
    if attached:
        return _continue(client, attached, process)
    if parent:
        experiment = client.get_run(parent).info.experiment_id
    else:
        experiment = experiment_id(client, config.tracking)
    sweep_dead_runs(client, experiment)
    if key and (stopped := _stopped_run(client, experiment, stage, parent, key)):
        return _continue(client, stopped, process)
    tags = {
        **process,
        "mlflow.runName": stage,
        "mlflow.user": _user(),
        "mlflow.source.name": sys.argv[0] or "python",
        "mlflow.source.type": "LOCAL",
    }
    if parent:
        tags[PARENT_TAG] = parent
    if sha := git_sha():
        tags["mlflow.source.git.commit"] = sha
    return str(client.create_run(experiment, tags=tags, run_name=stage).info.run_id)


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


def _continue(client: Any, run_id: str, process: Mapping[str, str]) -> str:
    """Set a run to RUNNING again, under this process."""
    from mlflow.entities import RunTag

    tags = client.get_run(run_id).data.tags
    client.update_run(run_id, status="RUNNING")
    restarts = int(tags.get(RESTARTS_TAG, "0")) + (PID_TAG in tags)
    new = [RunTag(name, value) for name, value in process.items()]
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


def _quiet_mlflow() -> None:
    """No chatter, no telemetry, and no minutes of retries; set before mlflow is imported."""
    for name, value in {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def _sqlite_file(uri: str) -> Path | None:
    """Absolute path of a sqlite URI's file, None for other stores."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(path).absolute()


def _make_database(database: Path) -> None:
    """Make a new sqlite store: by one process at a time, and never half of one.

    MLflow runs its migrations in the file itself; killed in between, it could
    never open that file again.
    """
    from mlflow.tracking import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists():
            return
        scratch = database.with_name(f".{database.name}.new")
        for left in (scratch, scratch.with_name(f"{scratch.name}-journal")):
            left.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{scratch}").search_experiments(max_results=1)
        scratch.replace(database)


def _host() -> str:
    """This host and its process namespace: pids mean nothing in another container."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace}"


def _is_alive(pid: str, start: str) -> bool:
    """Whether the process that opened a run still lives (and is not another of its pid)."""
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) < _CLOCK_SECONDS
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError):
        return False


def _is_refusal(error: Exception) -> bool:
    """Whether the store answered 'no', rather than not at all."""
    from mlflow.exceptions import MlflowException

    status: int = error.get_http_status_code() if isinstance(error, MlflowException) else 500
    return 400 <= status < 500


def _metric_name(name: str) -> str:
    """A name that MLflow accepts: other characters than its own become '_'."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def first_line(error: BaseException) -> str:
    """What an error says first, without passwords."""
    return _without_password((str(error).splitlines() or [""])[0])


def _without_password(text: str) -> str:
    """The text with 'user:password@' taken out of its URLs: parameters are read by many."""
    return re.sub(r"//[^/@\s]+@", "//", text)
