"""A home with tiny models and a local store, and a real MLflow server over a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow_server import Server
from object_storage import s3_bucket
from registry_examples import GATE_PASSED, PROOF, save_adapter, save_base, save_full

from ytrainer_core import registry, tracking
from ytrainer_core.config import RegisterConfig, RegistryConfig, TrackingConfig
from ytrainer_core.registry import register_model, verify
from ytrainer_core.tracking import open_run

BUCKET = "models"


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the whole module, and no variables from outside."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "YTRAINER_"))]:
            patch.delenv(name)
        patch.setenv("YTRAINER_HOME", str(folder / "home"))
        patch.setenv("YTRAINER_GIT_SHA", "c0ffee")
        yield folder
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return save_base(place / "base")


@pytest.fixture(scope="module")
def adapter(place: Path, base: Path) -> Path:
    return save_adapter(place / "adapter", base)


@pytest.fixture(scope="module")
def full(place: Path, base: Path) -> Path:
    return save_full(place / "full", base)


@pytest.fixture
def in_process_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proof without the seconds that a fresh interpreter takes to import torch."""
    monkeypatch.setattr(PROOF, lambda uri, config: verify(uri, tracking=config.tracking))


@pytest.fixture(scope="module")
def client() -> Any:
    return tracking.connect(TrackingConfig())


@pytest.fixture
def register() -> Callable[..., registry.Version]:
    """register(folder, name, told=GATE_PASSED, tracking=None, **RegistryConfig) -> Version."""

    def do(
        folder: Path,
        name: str,
        told: dict[str, str] | None = None,
        tracking: TrackingConfig | None = None,
        **registry_fields: Any,
    ) -> registry.Version:
        config = RegisterConfig(
            tracking=tracking or TrackingConfig(),
            registry=RegistryConfig(name=name, **registry_fields),
        )
        with open_run("register", config) as run:
            return register_model(folder, config, run=run, tags=told or GATE_PASSED)

    return do


@pytest.fixture
def several(
    register: Callable[..., registry.Version], client: Any, in_process_proof: None
) -> Callable[..., None]:
    """several(folder, name, count): versions 1 to count, registered once and then listed again."""

    def do(folder: Path, name: str, count: int) -> None:
        first = client.get_model_version(name, str(register(folder, name).version))
        for _ in range(count - 1):
            client.create_model_version(name, first.source, tags=first.tags)

    return do


@pytest.fixture(scope="session")
def bucket() -> Iterator[Any]:
    """A bucket on a real S3 server; the variables that lead there are set for the session."""
    with s3_bucket(BUCKET) as made:
        yield made


@pytest.fixture(scope="session")
def server(bucket: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a real `mlflow server` on sqlite that proxies artifacts to the bucket."""
    with Server(tmp_path_factory.mktemp("server"), f"s3://{BUCKET}/proxied") as started:
        yield started.uri
