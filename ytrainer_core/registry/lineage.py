"""The tags by which a version can be traced, checked and rebuilt."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ytrainer_core import __version__
from ytrainer_core.config import RegistryConfig, TrackingConfig
from ytrainer_core.config.base import as_mapping
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import sha256_json
from ytrainer_core.registry.client import all_pages
from ytrainer_core.registry.versions import (
    OWN_PREFIX,
    PARENT_TAG,
    PROOF_TAG,
    TRAINED_SHA256_TAG,
    TRIGGER_PREFIX,
    UNREGISTERED_PREFIX,
    uri_of,
)
from ytrainer_core.tracking import PARENT_RUN_VARIABLE, Run, git_sha, tracking_uri
from ytrainer_core.verify import (
    BASE_REVISION_TAG,
    BASE_SHA256_TAG,
    BASE_TAG,
    FILES_TAG,
)

if TYPE_CHECKING:
    from ytrainer_core.training.model import ModelCard

IMAGE_DIGEST_VARIABLE = "YTRAINER_IMAGE_DIGEST"
"""Environment variable: digest of the container image that this process runs in."""
KFP_RUN_VARIABLE = "KFP_RUN_ID"
"""Environment variable: Kubeflow's run id, where the pod's definition hands it over."""
_PARENT_RUN_TAG = "mlflow.parentRunId"
_KFP_RUN_TAG = "kfp.pipeline_run_id"
"""Tag that Kubeflow sets on the MLflow run which it makes for a pipeline."""


def own_tags(config: RegistryConfig) -> dict[str, str]:
    """registry.tags as a mapping. Raises ConfigError for names that are ytrainer's."""
    tags = as_mapping(config.tags)
    faults = [
        f"registry.tags: '{name}' is set by ytrainer itself. Choose a name that does not begin "
        f"with '{OWN_PREFIX}'."
        for name in tags
        if name.startswith(OWN_PREFIX) and not name.startswith(TRIGGER_PREFIX)
    ]
    if faults:
        raise ConfigError(*faults)
    return tags


def lineage_tags(
    client: Any, card: ModelCard, trained_sha256: str, run: Run, tracking: TrackingConfig
) -> dict[str, str]:
    """Where a trained model comes from: data, config, code, image, base, parent and runs."""
    training = _run(client, card.run_id)
    tags = {
        BASE_TAG: card.base.name_or_path,
        BASE_REVISION_TAG: card.base.revision,
        BASE_SHA256_TAG: card.base.sha256,
        TRAINED_SHA256_TAG: trained_sha256,
        PARENT_TAG: _parent(client, card),
        "ytrainer.data_sha256": card.data_sha256,
        "ytrainer.config_sha256": sha256_json(card.config),
        "ytrainer.version": __version__,
        "ytrainer.git_sha": git_sha(),
        "ytrainer.image_digest": os.environ.get(IMAGE_DIGEST_VARIABLE, ""),
        "ytrainer.pipeline_run_id": _pipeline_run_id(client, _run(client, run.run_id), training),
        "ytrainer.run_id": run.run_id,
        "ytrainer.training_run_id": card.run_id,
        "ytrainer.training_run_url": _url(training, tracking),
    }
    return {name: value for name, value in tags.items() if value}


def stored_tags(files: Mapping[str, str], model_id: str) -> dict[str, str]:
    """What was stored, not yet proved. files: name below the version's folder -> sha256."""
    return {
        PROOF_TAG: "pending",
        FILES_TAG: json.dumps(files),
        "ytrainer.files_sha256": sha256_json(files),
        "ytrainer.model_id": model_id,
    }


def _parent(client: Any, card: ModelCard) -> str:
    """models:/NAME/2, or the digest of a parent that was not registered; empty without one."""
    if card.parent or not card.parent_sha256:
        return card.parent
    found = all_pages(
        client.search_model_versions,
        filter_string=f"tags.`{TRAINED_SHA256_TAG}` = '{card.parent_sha256}'",
    )
    for version in found:
        return uri_of(version.name, version.version)
    return f"{UNREGISTERED_PREFIX}{card.parent_sha256}"


def _pipeline_run_id(client: Any, registration: Any, training: Any) -> str:
    """Kubeflow's id of the pipeline run where it is known, else its run in MLflow."""
    if kubeflow := os.environ.get(KFP_RUN_VARIABLE):
        return kubeflow
    parents = [run.data.tags.get(_PARENT_RUN_TAG, "") for run in (registration, training) if run]
    for parent in filter(None, (*parents, os.environ.get(PARENT_RUN_VARIABLE, ""))):
        run = _run(client, parent)
        return str(run.data.tags.get(_KFP_RUN_TAG, parent)) if run else parent
    return ""


def _run(client: Any, run_id: str) -> Any:
    """A run of this store, or None: a model may have been trained where another one is used."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _url(training: Any, tracking: TrackingConfig) -> str:
    """Page of the training's run, with its metric history, where the store is a server."""
    address = urlsplit(tracking_uri(tracking))
    if training is None or address.scheme not in ("http", "https"):
        return ""
    host = address.netloc.rpartition("@")[2]  # no password
    place = f"experiments/{training.info.experiment_id}/runs/{training.info.run_id}"
    return f"{address.scheme}://{host}{address.path.rstrip('/')}/#/{place}"
