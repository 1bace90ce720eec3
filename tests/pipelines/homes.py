"""A home for a test: the command line in a process of its own, and the home's MLflow store."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLI = [sys.executable, "-c", "from ytrainer_core.cli import main; main()"]


def client_of(home: Path) -> Any:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{home / 'mlflow.db'}"
    return MlflowClient(uri, registry_uri=uri)


def runs_of(home: Path, condition: str) -> list[Any]:
    client = client_of(home)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    order = ["attributes.start_time ASC"]
    return list(client.search_runs(experiments, condition, order_by=order))


@contextmanager
def environment(home: Path) -> Iterator[None]:
    """A home, and no MLflow variables from outside."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        patch.setenv("YTRAINER_HOME", str(home))
        yield
