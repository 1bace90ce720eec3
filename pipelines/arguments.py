"""What a run hands to its pipeline: a config tree as kfp's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.configs import PIPELINE_CONFIGS
from pipelines.placement import Placement, parameters_of
from ytrainer_core.config import narrow
from ytrainer_core.config.headline import split_headline
from ytrainer_core.errors import ConfigError

_CLUSTER = "cluster"


def placement_of(name: str, tree: Mapping[str, Any]) -> Placement:
    """Where the steps of a pipeline run. Raises ConfigError."""
    config: Any = narrow(PIPELINE_CONFIGS[name], tree)
    nodes = config.launch.nodes if hasattr(config, "launch") else 1
    if nodes > 1 and not config.cluster.cache_claim:
        raise ConfigError(
            f"launch.nodes={nodes}: the machines share what they work on through a volume. Name a "
            "PersistentVolumeClaim with access mode ReadWriteMany in cluster.cache_claim."
        )
    return Placement(config.cluster, nodes)


def arguments_of(name: str, tree: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """The parameters of a traced pipeline that a config tree sets. Raises ConfigError."""
    rest = {section: value for section, value in tree.items() if section != _CLUSTER}
    known = pipeline.component_spec.inputs
    headline, rest = split_headline(PIPELINE_CONFIGS[name], rest, known)
    return {**headline, **parameters_of(placement_of(name, tree).cluster), "config": rest}
