"""The manifest of a training on several machines: a TrainJob of Kubeflow Trainer (2.2 or later).

Every node runs torchrun with our worker on one shared folder. Who is which node and where the
first one is found, the trainer tells each by PET_* variables, which torchrun reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from ytrainer_core.errors import ConfigError
from ytrainer_core.files import sha256_json

API_VERSION = "trainer.kubeflow.org/v1alpha1"
NODE = "node"
"""Name of the job and of the container that train, in Kubeflow's own runtimes."""

DIGEST_ANNOTATION = "ytrainer/manifest-sha256"
"""Tells a restarted launcher whether the TrainJob that is there already is the one it wants."""

MANAGER = "ytrainer/launcher"
_TORCHRUN = ("python3", "-m", "torch.distributed.run")
_WORKER = "ytrainer_core.training.worker"
_RESERVED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR",
             "PET_MASTER_PORT")  # fmt: skip
_SHARED_MEMORY_PATH = "/dev/shm"
_KUEUE_QUEUE, _KUEUE_PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
_VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"
_SCHEMAS = Path(__file__).with_name("schemas")
_LONGEST_NAME = 63


@dataclass(frozen=True)
class SecretVariable:
    """An environment variable whose value lies in a Secret; left out where that is not there."""

    variable: str
    secret: str
    key: str


@dataclass(frozen=True)
class SharedVolume:
    """A PersistentVolumeClaim and where it is mounted, whole or one folder of it."""

    claim: str
    path: str
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True)
class Nodes:
    """The machines of a training.

    cpu, memory: quantities as Kubernetes writes them ("8", "64Gi"), for each node. gpus: for each
    node, of gpu_type. shared_memory: size of /dev/shm, empty leaves the container's 64 MiB.
    tolerations, security_context: as in a pod. runtime: the (Cluster)TrainingRuntime; a pod's
    PriorityClass and Volcano's gang scheduling are set there, since no TrainJob can.
    """

    image: str
    nodes: int
    processes_per_node: int
    cpu: str = "4"
    memory: str = "16Gi"
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"
    shared_memory: str = ""
    volumes: Sequence[SharedVolume] = ()
    environment: Mapping[str, str] | None = None
    secrets: Sequence[SecretVariable] = ()
    node_selector: Mapping[str, str] | None = None
    tolerations: Sequence[Mapping[str, Any]] = ()
    service_account: str = ""
    image_pull_secrets: Sequence[str] = ()
    security_context: Mapping[str, Any] | None = None
    pod_labels: Mapping[str, str] | None = None
    pod_annotations: Mapping[str, str] | None = None
    runtime: str = "torch-distributed"
    deadline_seconds: int = 0
    kueue_queue: str = ""
    kueue_priority_class: str = ""
    volcano_queue: str = ""


def trainjob_manifest(
    name: str,
    folder: str,
    nodes: Nodes,
    *,
    labels: Mapping[str, str] | None = None,
    owner: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The TrainJob that trains the task in `folder` (see training/launch.py) on several nodes.

    name: made fit for Kubernetes. folder: below one of nodes.volumes, which all nodes must be able
    to write to. owner: an ownerReference;
    with it the cluster itself deletes the TrainJob when the launcher's pod is gone.
    Raises ConfigError with everything that the API would refuse.
    """
    _check(folder, nodes)
    metadata: dict[str, Any] = {
        "name": fit_name(name),
        "labels": {**(labels or {}), **_scheduling_labels(nodes)},
    }
    spec: dict[str, Any] = {
        "runtimeRef": {
            "apiGroup": API_VERSION.split("/")[0],
            "kind": "ClusterTrainingRuntime",
            "name": nodes.runtime,
        },
        "trainer": {
            "image": nodes.image,
            "command": [*_TORCHRUN, "-m", _WORKER, folder],
            "numNodes": nodes.nodes,
            "numProcPerNode": nodes.processes_per_node,
            "resourcesPerNode": _resources(nodes),
            "env": _environment(nodes),
        },
        "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": _jobs(nodes)}}],
    }
    if nodes.deadline_seconds:
        spec["activeDeadlineSeconds"] = nodes.deadline_seconds
    metadata["annotations"] = {DIGEST_ANNOTATION: sha256_json([metadata, spec])}
    if owner:
        metadata["ownerReferences"] = [dict(owner)]
    manifest = {"apiVersion": API_VERSION, "kind": "TrainJob", "metadata": metadata, "spec": spec}
    faults = schema_faults(manifest)
    if faults:
        raise ConfigError(*(f"TrainJob {metadata['name']}: {fault}" for fault in faults))
    return manifest


def fit_name(name: str) -> str:
    """A name that Kubernetes takes: lower-case letters, digits and '-', a letter first."""
    fit = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not fit[:1].isalpha():
        fit = f"y-{fit}"
    return fit[:_LONGEST_NAME].rstrip("-")


def schema_faults(manifest: Mapping[str, Any]) -> list[str]:
    """What the API's schema has against a TrainJob, each fault with the field it lies in."""
    return [
        f"{'.'.join(map(str, error.absolute_path)) or 'manifest'}: {error.message}. Correct it."
        for validator in _validators()
        for error in sorted(validator.iter_errors(manifest), key=lambda e: list(map(str, e.path)))
    ]


@cache
def _validators() -> tuple[Any, ...]:
    files = ("trainjob.json", "trainjob-limits.json")
    return tuple(
        Draft202012Validator(json.loads((_SCHEMAS / file).read_text(encoding="utf-8")))
        for file in files
    )


def _check(folder: str, nodes: Nodes) -> None:
    faults = [
        f"{name}={value}: a training takes at least one. Set {name} to 1 or more."
        for name, value in (
            ("nodes", nodes.nodes),
            ("processes_per_node", nodes.processes_per_node),
        )
        if value < 1
    ]
    if 0 < nodes.gpus < nodes.processes_per_node:
        faults.append(
            f"processes_per_node={nodes.processes_per_node}: each takes one of the node's "
            f"{nodes.gpus} GPUs. Set processes_per_node={nodes.gpus}."
        )
    taken = sorted({*(nodes.environment or {}), *(s.variable for s in nodes.secrets)}
                   & set(_RESERVED))  # fmt: skip
    if taken:
        faults.append(f"environment: the trainer itself sets {', '.join(taken)}. Leave them out.")
    if not is_shared(folder, nodes, to_write=True):
        faults.append(
            f"{folder}: lies on no volume that the nodes share. Name a PersistentVolumeClaim that "
            "all nodes can write to, and its path."
        )
    if nodes.kueue_priority_class and not nodes.kueue_queue:
        faults.append(
            f"kueue_priority_class={nodes.kueue_priority_class}: means nothing without Kueue. Set "
            "kueue_queue too; a pod's PriorityClass is set in the runtime."
        )
    if faults:
        raise ConfigError(*faults)


def is_shared(path: str | Path, nodes: Nodes, *, to_write: bool = False) -> bool:
    """Whether the nodes see a path (absolute) as this machine does."""
    return any(
        Path(path).is_relative_to(volume.path)
        for volume in nodes.volumes
        if not (to_write and volume.read_only)
    )


def _scheduling_labels(nodes: Nodes) -> dict[str, str]:
    wanted = {_KUEUE_QUEUE: nodes.kueue_queue, _KUEUE_PRIORITY: nodes.kueue_priority_class}
    return {label: value for label, value in wanted.items() if value}


def _resources(nodes: Nodes) -> dict[str, dict[str, str]]:
    """Requests equal to limits: such pods are the last to be evicted."""
    amounts = {"cpu": nodes.cpu, "memory": nodes.memory}
    if nodes.gpus:
        amounts[nodes.gpu_type] = str(nodes.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _environment(nodes: Nodes) -> list[dict[str, Any]]:
    plain = [{"name": k, "value": v} for k, v in sorted((nodes.environment or {}).items())]
    secret = [
        {
            "name": given.variable,
            "valueFrom": {
                "secretKeyRef": {"name": given.secret, "key": given.key, "optional": True}
            },
        }
        for given in nodes.secrets
    ]
    return [*secret, *plain]  # a plain value may name a secret one before it, as $(NAME)


def _jobs(nodes: Nodes) -> dict[str, Any]:
    """What is changed of the runtime's own template."""
    marks = {"labels": nodes.pod_labels, "annotations": nodes.pod_annotations}
    given = {name: dict(value) for name, value in marks.items() if value}
    pod = {"template": {"spec": _pod(nodes)} | ({"metadata": given} if given else {})}
    jobs: dict[str, Any] = {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": pod}}]}}
    if nodes.volcano_queue:
        jobs["metadata"] = {"annotations": {_VOLCANO_QUEUE: nodes.volcano_queue}}
    return jobs


def _pod(nodes: Nodes) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": f"shared-{i}", "persistentVolumeClaim": {"claimName": volume.claim}}
        for i, volume in enumerate(nodes.volumes)
    ]
    mounts = [_mount(f"shared-{i}", volume) for i, volume in enumerate(nodes.volumes)]
    if nodes.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": nodes.shared_memory}
        volumes.append({"name": "shm", "emptyDir": memory})
        mounts.append({"name": "shm", "mountPath": _SHARED_MEMORY_PATH})
    pod = {
        "volumes": volumes,
        "containers": [{"name": NODE, "volumeMounts": mounts}],
        "nodeSelector": dict(nodes.node_selector or {}),
        "tolerations": [dict(toleration) for toleration in nodes.tolerations],
        "imagePullSecrets": [{"name": name} for name in nodes.image_pull_secrets],
        "serviceAccountName": nodes.service_account,
        "securityContext": dict(nodes.security_context or {}),
    }
    return {name: value for name, value in pod.items() if value}


def _mount(name: str, volume: SharedVolume) -> dict[str, Any]:
    mount = {
        "name": name,
        "mountPath": volume.path,
        "subPath": volume.sub_path,
        "readOnly": volume.read_only,
    }
    return {field: value for field, value in mount.items() if value}
