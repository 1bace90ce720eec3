"""Knobs of the place where a pipeline's steps run; on one machine none of them matters."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ytrainer_core.config.base import Count, NonNegative, Pairs, Section, Strings, as_mapping

_TAINT = re.compile(
    r"(?P<key>[\w./-]+)(=(?P<value>[\w.-]*))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
_REFERENCE = r"^[a-z0-9][\w.:/-]*(@sha256:[0-9a-f]{64})?$"
_QUANTITY = r"^\d+(\.\d+)?(m|k|[KMGTPE]i|[MGTPE])?$"
_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"

Quantity = Annotated[str, Field(pattern=_QUANTITY, coerce_numbers_to_str=True)]
"""An amount as Kubernetes writes it: 500m, 4, 16Gi."""

Name = Annotated[str, Field(pattern=rf"^$|{_NAME}", max_length=253)]
"""The name of something in a cluster; empty is none."""


def _as_taints(taints: tuple[str, ...]) -> tuple[str, ...]:
    for taint in taints:
        if _TAINT.fullmatch(taint) is None:
            raise ValueError(
                f"'{taint}' is no taint. Write KEY=VALUE:EFFECT, KEY:EFFECT or KEY, where EFFECT "
                "is NoSchedule, PreferNoSchedule or NoExecute"
            )
    return taints


class ClusterConfig(Section):
    """Where and how a pipeline's steps run on a cluster."""

    image: Annotated[str, Field(pattern=rf"^$|{_REFERENCE}")] = ""
    """Image of all steps, best as REGISTRY/NAME@sha256:DIGEST; empty takes the package's tag."""

    cpu: Quantity = "4"
    """Cores of each step that reads the corpus or loads a model."""

    memory: Quantity = "16Gi"
    """Main memory of each step that reads the corpus or loads a model."""

    gpus: Count = 0
    """GPUs of each step that loads a model."""

    gpu_type: Annotated[str, Field(min_length=1)] = "nvidia.com/gpu"
    """Resource by which the cluster knows the GPUs."""

    node_selector: Pairs = ()
    """Labels that a node must have, such as 'pool=idle', also to choose a kind of GPU."""

    tolerations: Annotated[Strings, AfterValidator(_as_taints)] = ()
    """Taints that the steps bear, as KEY=VALUE:EFFECT, KEY:EFFECT or KEY, such as those of nodes
    that may be taken away."""

    s3_secret: Name = "ytrainer-s3"
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION;
    secret and keys may be missing, and an empty name takes none."""

    mlflow_secret: Name = "ytrainer-mlflow"
    """Secret with MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD; secret and keys may be missing. Leave the name empty where Kubeflow
    itself sets these variables."""

    hub_secret: Name = "ytrainer-hub"
    """Secret with HF_TOKEN, HF_ENDPOINT; secret and keys may be missing, and an empty name takes
    none."""

    shared_memory: Annotated[str, Field(pattern=rf"^$|{_QUANTITY}")] = "8Gi"
    """Most of a step's memory that /dev/shm may take; empty leaves the container's 64 MiB."""

    cache_claim: Name = ""
    """PersistentVolumeClaim, writable by many, for checkpoints, models and caches that outlive a
    step; empty keeps them in the step."""

    image_pull_secrets: Strings = ()
    """Secrets with which the image is pulled."""

    labels: Pairs = ()
    """Labels of the steps' pods, such as a queue and priority of Kueue."""

    timeout_hours: NonNegative = 24.0
    """Hours that a step may take; 0 sets no limit."""

    retries: Count = 2
    """Times that a failed step is started again; training goes on from its checkpoint."""


def node_labels(config: ClusterConfig) -> dict[str, str]:
    """node_selector as Kubernetes wants it."""
    return as_mapping(config.node_selector)


def tolerations(config: ClusterConfig) -> list[dict[str, Any]]:
    """tolerations as Kubernetes wants them; a taint without a value is borne whatever that is."""
    found = []
    for taint in config.tolerations:
        match = _TAINT.fullmatch(taint)
        assert match  # the config was validated
        toleration = {"key": match["key"], "operator": "Exists"}
        if match["value"] is not None:
            toleration |= {"operator": "Equal", "value": match["value"]}
        if match["effect"]:
            toleration["effect"] = match["effect"]
        found.append(toleration)
    return found
