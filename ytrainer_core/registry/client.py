"""The way to MLflow's registry: its client, its errors as ours, a version's files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import home
from ytrainer_core.tracking import connect, first_line, registry_uri, tracking_uri


def registry_client(tracking: TrackingConfig | None) -> Any:
    """An MlflowClient of the store in `tracking`. Raises RegistryError without mlflow."""
    try:
        return connect(tracking or TrackingConfig())
    except ImportError as error:
        raise RegistryError(
            "mlflow is not installed, and the registry is MLflow's. pip install "
            "'ytrainer[pipelines]'."
        ) from error


@contextmanager
def registry_errors(what: str, remedy: str = "") -> Iterator[None]:
    """MLflow's and the system's errors as a RegistryError: what failed, why, and the remedy."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{what}: {type(error).__name__}: {first_line(error)} {remedy}".rstrip()
        ) from error


@contextmanager
def downloaded(uri: str, tracking: TrackingConfig | None) -> Iterator[tuple[Any, Path]]:
    """(model version, folder with its files): in place for a local store, else fetched."""
    tracking = tracking or TrackingConfig()
    client = registry_client(tracking)
    from mlflow.artifacts import download_artifacts

    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".download.") as scratch:
        version = find_version(client, uri)
        with registry_errors(f"{uri} could not be read"):
            place = client.get_model_version_download_uri(version.name, version.version)
            local = Path(place.removeprefix("file://"))
            folder = (
                local
                if local.is_dir()
                else Path(
                    download_artifacts(
                        place,
                        dst_path=scratch,
                        tracking_uri=tracking_uri(tracking),
                        registry_uri=registry_uri(tracking),
                    )
                )
            )
        yield version, folder


def find_version(client: Any, uri: str) -> Any:
    """The ModelVersion of models:/NAME/3 or models:/NAME@alias. Raises RegistryError."""
    name, number, alias = split_uri(uri)
    with registry_errors(f"{uri} could not be read"):
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)


def split_uri(uri: str) -> tuple[str, str, str]:
    """(name, number, alias) of a version's URI; number or alias is empty."""
    match = re.fullmatch(r"models:/([^:/%\"'@]+)(?:/(\d+)|@([\w-]+))", uri)
    if not match:
        raise RegistryError(
            f"'{uri}' names no registered version. Write models:/NAME/3 or models:/NAME@champion; "
            "`ytrainer registry list` shows what there is."
        )
    name, number, alias = match.groups()
    return name, number or "", alias or ""


def all_pages(search: Callable[..., Any], **arguments: str) -> Iterator[Any]:
    """Everything that a paged search of MLflow finds."""
    page = search(**arguments)
    yield from page
    while page.token:
        page = search(**arguments, page_token=page.token)
        yield from page
