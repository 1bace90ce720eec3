"""What a run hands to its pipeline: a config tree as kfp's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.configs import PIPELINE_CONFIGS
from pipelines.placement import parameters_of
from ytrainer_core.config import ClusterConfig, narrow
from ytrainer_core.config.headline import split_headline

_CLUSTER = "cluster"


def cluster_of(name: str, tree: Mapping[str, Any]) -> ClusterConfig:
    """Where the steps of a pipeline run. Raises ConfigError."""
    cluster: ClusterConfig = getattr(narrow(PIPELINE_CONFIGS[name], tree), _CLUSTER)
    return cluster


def arguments_of(name: str, tree: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """The parameters of a traced pipeline that a config tree sets. Raises ConfigError."""
    rest = {section: value for section, value in tree.items() if section != _CLUSTER}
    known = pipeline.component_spec.inputs
    headline, rest = split_headline(PIPELINE_CONFIGS[name], rest, known)
    return {**headline, **parameters_of(cluster_of(name, tree)), "config": rest}
