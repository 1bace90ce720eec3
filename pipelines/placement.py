"""Where a step of a pipeline runs on a cluster: its size, nodes, secrets, volumes and patience."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ytrainer_core.config import ClusterConfig
from ytrainer_core.config.base import as_mapping
from ytrainer_core.config.cluster import node_labels, tolerations
from ytrainer_core.registry.lineage import IMAGE_DIGEST_VARIABLE

CACHE_PATH = "/cache"
"""Where cluster.cache_claim is mounted: YTRAINER_HOME lies there, and the hub's files."""

_LIGHT = frozenset({"order", "promote"})
"""Steps that load no model and read no corpus."""

_TRAIN = frozenset({"pretrain", "cpt", "sft"})
"""Steps that several machines can do; such a step only looks on, and needs no GPU for that."""

_LIGHT_CPU, _LIGHT_MEMORY = "1", "4Gi"
_WITHOUT_GPU = _LIGHT | {"validate"}
_SECRETS = {
    "s3_secret": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
    ),
    "mlflow_secret": (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    ),
    "hub_secret": ("HF_TOKEN", "HF_ENDPOINT"),
}
_SECONDS_PER_HOUR = 3600
_BACKOFF_SECONDS = 60
"""Before a step is started again, doubled each time; a lost node is not back at once."""

_FOR_EVER_SECONDS = 365 * 24 * _SECONDS_PER_HOUR


@dataclass(frozen=True)
class Placement:
    """Where the steps run. nodes: machines of the training; above one it is no pod's own work."""

    cluster: ClusterConfig
    nodes: int = 1


def parameters_of(config: ClusterConfig) -> dict[str, Any]:
    """What a run may say otherwise than its pipeline was compiled with, as kfp's parameters."""
    return {
        "cpu": config.cpu,
        "memory": config.memory,
        "gpus": str(config.gpus),  # Kubeflow reads a number here as nothing, and gives no GPU
        "gpu_type": config.gpu_type,
        "node_selector": node_labels(config),
        "tolerations": tolerations(config),
        "s3_secret": config.s3_secret,
        "mlflow_secret": config.mlflow_secret,
        "hub_secret": config.hub_secret,
    }


def place(task: Any, given: Mapping[str, Any], placement: Placement) -> None:
    """Tell a step where and how it runs.

    given: the pipeline's parameters, of which those of `parameters_of` are read. The rest kfp
    fixes when it compiles, so it comes from the config.
    """
    config = placement.cluster
    spread = placement.nodes > 1 and task.name in _TRAIN
    _size(task, given, config, with_gpu=not spread and task.name not in _WITHOUT_GPU)
    _choose_nodes(task, given, config)
    _reach(task, given, config)
    _bear(task, config)


def _size(task: Any, given: Mapping[str, Any], config: ClusterConfig, *, with_gpu: bool) -> None:
    from kfp import kubernetes

    light = task.name in _LIGHT
    cpu, memory = (_LIGHT_CPU, _LIGHT_MEMORY) if light else (given["cpu"], given["memory"])
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if with_gpu:
        task.set_accelerator_type(given["gpu_type"]).set_accelerator_limit(given["gpus"])
    if config.shared_memory and not light:
        kubernetes.empty_dir_mount(
            task, "shm", "/dev/shm", medium="Memory", size_limit=config.shared_memory
        )


def _choose_nodes(task: Any, given: Mapping[str, Any], config: ClusterConfig) -> None:
    from kfp import kubernetes

    kubernetes.add_node_selector_json(task, given["node_selector"])
    kubernetes.add_toleration_json(task, given["tolerations"])
    for name, value in as_mapping(config.labels).items():
        kubernetes.add_pod_label(task, name, value)


def _reach(task: Any, given: Mapping[str, Any], config: ClusterConfig) -> None:
    """The image, and what the step is allowed to read and write."""
    from kfp import kubernetes

    if config.image:
        task.set_container_image(config.image)
        if digest := config.image.partition("@")[2]:
            task.set_env_variable(IMAGE_DIGEST_VARIABLE, digest)
    if config.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(config.image_pull_secrets))
    for parameter, keys in _SECRETS.items():
        if not getattr(config, parameter):
            continue
        kubernetes.use_secret_as_env(
            task, given[parameter], {key: key for key in keys}, optional=True
        )
    if config.cache_claim:
        kubernetes.mount_pvc(task, config.cache_claim, CACHE_PATH)
        task.set_env_variable("YTRAINER_HOME", CACHE_PATH)
        task.set_env_variable("HF_HOME", f"{CACHE_PATH}/huggingface")


def _bear(task: Any, config: ClusterConfig) -> None:
    from kfp import kubernetes

    seconds = math.ceil(config.timeout_hours * _SECONDS_PER_HOUR)
    if seconds:
        kubernetes.set_timeout(task, seconds)
    if config.retries:
        # Argo counts the longest backoff from the first start on, so it must cover all of them
        pauses = _BACKOFF_SECONDS * 2**config.retries
        longest = (config.retries + 1) * seconds + pauses if seconds else _FOR_EVER_SECONDS
        task.set_retry(
            config.retries,
            backoff_duration=f"{_BACKOFF_SECONDS}s",
            backoff_max_duration=f"{longest}s",
        )
