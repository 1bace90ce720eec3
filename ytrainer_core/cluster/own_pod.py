"""What the nodes of a training get from the pod that this process runs in.

They are made like it: image, shared volumes, credentials, proxies, identity, place. So whatever a
pipeline's step was given holds for the nodes too, and nothing is declared a second time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.launch import read_pod
from ytrainer_core.cluster.trainjob import Nodes, SecretVariable, SharedVolume
from ytrainer_core.config import LaunchConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home
from ytrainer_core.processes import POD_NAME_VARIABLE

_STEP_CONTAINER = "main"
"""The container of a Kubeflow step that runs its code."""

_INHERITED_PREFIXES = ("YTRAINER_", "AWS_", "HF_", "MLFLOW_")
_OF_THE_ACCOUNT = ("AWS_ROLE_", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_")
"""Variables that the cloud gives every pod of a service account anew, with files of its own."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_HOME_VARIABLE = "YTRAINER_HOME"
_SECONDS_PER_HOUR = 3600

_MESH_MARK = "sidecar.istio.io/inject"
"""Label or annotation that keeps a service mesh's sidecar away; with one, a node never ends."""

_USER_FIELDS = ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile")
"""Of a container's security context, what a whole pod may have: who writes to the volume."""

Tree = Mapping[str, Any]


def own_cluster(launch: LaunchConfig) -> tuple[KubernetesApi, str]:
    """(API of the cluster, name of this process' own pod). Raises ConfigError outside of one."""
    try:
        api = KubernetesApi.in_cluster()
    except ConfigError as error:
        raise ConfigError(
            f"launch.nodes={launch.nodes} needs a cluster: several machines are asked for from "
            "within one of its pods, and this process runs in none with a service account's "
            "token. Run the pipeline with --host URL; set launch.nodes=1 to train here."
        ) from error
    return api, os.environ.get(POD_NAME_VARIABLE) or socket.gethostname()


def inherited_nodes(api: KubernetesApi, pod: str, launch: LaunchConfig) -> Nodes:
    """The machines that `launch` asks for, each like the pod of this name.

    Raises ConfigError where YTRAINER_HOME lies on no volume that the nodes can share,
    KubernetesError where the pod cannot be read.
    """
    found = read_pod(api, pod)
    marks, spec = found["metadata"], found["spec"]
    container = _own_container(spec)
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in spec.get("volumes", ())
        if "persistentVolumeClaim" in volume
    }
    mounts = container.get("volumeMounts", ())
    _check_home(pod, mounts, claims, launch)
    variables = {entry["name"]: entry for entry in container.get("env", ())}  # the last one holds
    return Nodes(
        image=container["image"],
        nodes=launch.nodes,
        processes_per_node=launch.processes,
        cpu=launch.node_cpu,
        memory=launch.node_memory,
        gpus=launch.node_gpus,
        gpu_type=launch.node_gpu_type,
        shared_memory=launch.node_shared_memory,
        volumes=tuple(_shared(mounts, claims)),
        environment={
            **dict(_plain(variables, mounts, claims)),
            _HOME_VARIABLE: str(home()),
        },
        secrets=tuple(_secrets(variables)),
        node_selector=spec.get("nodeSelector"),
        tolerations=spec.get("tolerations", ()),
        service_account=spec.get("serviceAccountName", ""),
        image_pull_secrets=tuple(each["name"] for each in spec.get("imagePullSecrets", ())),
        security_context=_user(spec, container),
        pod_labels=_mesh_mark(marks.get("labels")),
        pod_annotations=_mesh_mark(marks.get("annotations")),
        runtime=launch.runtime,
        kueue_priority_class=launch.kueue_priority_class,
        deadline_seconds=round(launch.node_timeout_hours * _SECONDS_PER_HOUR),
        kueue_queue=launch.kueue_queue,
        volcano_queue=launch.volcano_queue,
    )


def _own_container(spec: Tree) -> Tree:
    """Kubeflow's among a pod's containers (it has others beside it), else the first."""
    containers: list[Tree] = spec["containers"]
    return next((each for each in containers if each["name"] == _STEP_CONTAINER), containers[0])


def _shared(mounts: list[Tree], claims: Mapping[str, Tree]) -> Iterator[SharedVolume]:
    """Every mounted claim; a path that only the pod itself can expand is none of them."""
    for mount in mounts:
        claim = claims.get(mount["name"])
        if claim and "subPathExpr" not in mount:
            yield SharedVolume(
                claim["claimName"],
                mount["mountPath"],
                mount.get("subPath", ""),
                _is_read_only(mount, claim),
            )


def _is_read_only(mount: Tree, claim: Tree) -> bool:
    return bool(mount.get("readOnly") or claim.get("readOnly"))


def _mount_of(path: Path, mounts: list[Tree]) -> Tree | None:
    """The mount on which a path lies: the innermost."""
    found = [each for each in mounts if path.is_relative_to(each["mountPath"])]
    return max(found, key=lambda each: len(Path(each["mountPath"]).parts), default=None)


def _check_home(
    pod: str, mounts: list[Tree], claims: Mapping[str, Tree], launch: LaunchConfig
) -> None:
    mount = _mount_of(home(), mounts)
    claim = claims.get(mount["name"]) if mount and "subPathExpr" not in mount else None
    if mount and claim and not _is_read_only(mount, claim):
        return
    places = ", ".join(
        f"{volume.claim} at {volume.path}"
        for volume in _shared(mounts, claims)
        if not volume.read_only
    )
    raise ConfigError(
        f"launch.nodes={launch.nodes}: {_HOME_VARIABLE}={home()} lies on no PersistentVolumeClaim "
        "of this pod to which the nodes could write as well. Mount one with access mode "
        f"ReadWriteMany (here: {places or 'none'}), and set {_HOME_VARIABLE} to a folder on it. "
        f"The pod is {pod}."
    )


def _plain(
    variables: Mapping[str, Tree], mounts: list[Tree], claims: Mapping[str, Tree]
) -> Iterator[tuple[str, str]]:
    """(name, value) of the variables that matter to a training and hold on the nodes too.

    A path below a volume that they do not get, such as a token's, holds here alone.
    """
    for name, entry in variables.items():
        wanted = name.startswith(_INHERITED_PREFIXES) or name.upper() in _PROXIES
        wanted = wanted and not name.startswith(_OF_THE_ACCOUNT)
        value = entry.get("value", "")
        if not wanted or not value:
            continue
        mount = _mount_of(Path(value), mounts)
        if mount is None or mount["name"] in claims:
            yield name, value


def _secrets(variables: Mapping[str, Tree]) -> Iterator[SecretVariable]:
    for name, entry in variables.items():
        key = entry.get("valueFrom", {}).get("secretKeyRef")
        if key:
            yield SecretVariable(name, key["name"], key["key"])


def _user(spec: Tree, container: Tree) -> dict[str, Any]:
    """The pod's security context with the container's user in it."""
    own = container.get("securityContext", {})
    user = {name: own[name] for name in _USER_FIELDS if name in own}
    return {**spec.get("securityContext", {}), **user}


def _mesh_mark(marks: Mapping[str, str] | None) -> dict[str, str]:
    return {name: value for name, value in (marks or {}).items() if name == _MESH_MARK}
