"""The way to the MLflow store: its URI, its client, its errors as ours, its experiment."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import home
from ytrainer_core.tracking.leftovers import deliver_leftovers
from ytrainer_core.tracking.text import first_line, without_password


def tracking_uri(config: TrackingConfig) -> str:
    """Where runs go: the config's URI, else MLFLOW_TRACKING_URI, else sqlite in home()."""
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def registry_uri(config: TrackingConfig) -> str:
    """Where model versions go: MLFLOW_REGISTRY_URI, else where the runs go."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri(config)


def store_name(config: TrackingConfig) -> str:
    """By which name records on disk know their store: its URI, absolute, without a password."""
    uri = tracking_uri(config)
    database = _sqlite_file(uri)
    return f"sqlite:///{database}" if database else without_password(uri).rstrip("/")


def connect(config: TrackingConfig) -> Any:
    """An MlflowClient of the configured store, which is made if it is a new sqlite file.

    Delivers first what dead processes of this home could not tell the store.
    Raises ImportError where mlflow is not installed, YTrainerError where the
    store cannot be reached.
    """
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ.get("MLFLOW_LOGGING_LEVEL", "WARNING").upper())
    uri = tracking_uri(config)
    with store_errors(config):
        if database := _sqlite_file(uri):
            _make_database(database)
        client = MlflowClient(uri, registry_uri=registry_uri(config))
        client.search_experiments(max_results=1)  # fails here rather than in the middle
    deliver_leftovers(client, store_name(config))
    return client


@contextmanager
def store_errors(config: TrackingConfig) -> Iterator[None]:
    """Turn MLflow's errors into a YTrainerError that names the store and the remedy."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise YTrainerError(
            f"tracking.uri {without_password(tracking_uri(config))}: MLflow failed "
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


def quiet_mlflow() -> None:
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
