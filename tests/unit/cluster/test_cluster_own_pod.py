"""Nodes are made like the pod of the step that asks for them; what is only that pod's is not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes_stub import NAMESPACE, Cluster, serving
from step_pod import CLAIM, step_pod

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.own_pod import inherited_nodes, own_cluster
from ytrainer_core.cluster.trainjob import (
    Nodes,
    SecretVariable,
    SharedVolume,
    is_shared,
    schema_faults,
    trainjob_manifest,
)
from ytrainer_core.config import LaunchConfig
from ytrainer_core.errors import ConfigError

POD = "finetune-zx8-system-container-impl-42"
LAUNCH = LaunchConfig(nodes=2, processes=8, node_gpus=8)


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The step's pod; YTRAINER_HOME lies on its claim."""
    monkeypatch.setenv("YTRAINER_HOME", "/data/ytrainer")
    return step_pod(POD, "/data/ytrainer", "/data")


@pytest.fixture
def main(pod: dict[str, Any]) -> dict[str, Any]:
    """The container that runs the step."""
    container: dict[str, Any] = pod["spec"]["containers"][1]
    return container


@pytest.fixture
def inherited(pod: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    """inherited(launch) -> what the nodes get from the pod as it is then."""
    cluster = Cluster()
    cluster.pods[POD] = pod
    with serving(cluster) as url:
        api = KubernetesApi(url, NAMESPACE, account=tmp_path, patience=5)
        yield lambda launch=LAUNCH: inherited_nodes(api, POD, launch)


def test_nodes_get_image_volumes_credentials_place_and_identity_of_the_step(
    inherited: Callable[..., Nodes], pod: dict[str, Any]
) -> None:
    assert inherited() == Nodes(
        image="registry/ytrainer@sha256:0a1b",
        nodes=2,
        processes_per_node=8,
        cpu="4",
        memory="16Gi",
        gpus=8,
        gpu_type="nvidia.com/gpu",
        shared_memory="8Gi",
        volumes=(
            SharedVolume(CLAIM, "/data", "ytrainer"),
            SharedVolume("corpora", "/corpora", read_only=True),
        ),
        environment={
            "AWS_ENDPOINT_URL": "http://minio:9000",
            "HF_HOME": "/data/hub",
            "MLFLOW_TRACKING_URI": "http://mlflow",
            "NO_PROXY": "10.0.0.0/8",
            "YTRAINER_HOME": "/data/ytrainer",
            "https_proxy": "http://proxy:3128",
        },
        secrets=(SecretVariable("AWS_SECRET_ACCESS_KEY", "ytrainer-s3", "AWS_SECRET_ACCESS_KEY"),),
        node_selector={"pool": "idle"},
        tolerations=pod["spec"]["tolerations"],
        service_account="pipeline-runner",
        image_pull_secrets=("registry",),
        security_context={"fsGroup": 100, "runAsUser": 1000},
        pod_labels={},
        pod_annotations={"sidecar.istio.io/inject": "false"},
    )


def test_what_is_inherited_makes_a_manifest_that_the_api_takes(
    inherited: Callable[..., Nodes],
) -> None:
    manifest = trainjob_manifest("train", "/data/ytrainer/checkpoints/0a/nodes", inherited())
    assert schema_faults(manifest) == []
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = job["template"]["spec"]["template"]
    assert template["metadata"] == {"annotations": {"sidecar.istio.io/inject": "false"}}
    assert template["spec"]["securityContext"] == {"fsGroup": 100, "runAsUser": 1000}
    assert template["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "shared-0", "mountPath": "/data", "subPath": "ytrainer"},
        {"name": "shared-1", "mountPath": "/corpora", "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    first, *_ = manifest["spec"]["trainer"]["env"]
    assert first["name"] == "AWS_SECRET_ACCESS_KEY" and "value" not in first


def test_the_knobs_say_how_large_the_nodes_are_and_who_schedules_them(
    inherited: Callable[..., Nodes],
) -> None:
    launch = LaunchConfig(
        nodes=4,
        processes=2,
        node_cpu="32",
        node_memory="128Gi",
        node_gpus=2,
        node_gpu_type="amd.com/gpu",
        node_shared_memory="16Gi",
        node_timeout_hours=1.5,
        runtime="torch-volcano",
        kueue_queue="team-queue",
        volcano_queue="gpus",
    )
    assert inherited(launch) == replace(
        inherited(),
        nodes=4,
        processes_per_node=2,
        cpu="32",
        memory="128Gi",
        gpus=2,
        gpu_type="amd.com/gpu",
        shared_memory="16Gi",
        deadline_seconds=5400,
        runtime="torch-volcano",
        kueue_queue="team-queue",
        volcano_queue="gpus",
    )


def test_in_a_pod_that_kubeflow_did_not_make_the_first_container_counts(
    inherited: Callable[..., Nodes], main: dict[str, Any], pod: dict[str, Any]
) -> None:
    main["name"] = "trainer"
    pod["spec"]["containers"] = [main, {"name": "sidecar", "image": "proxy"}]
    assert inherited().image == "registry/ytrainer@sha256:0a1b"


def test_a_bare_pod_is_enough(
    inherited: Callable[..., Nodes], main: dict[str, Any], pod: dict[str, Any]
) -> None:
    claim = {"name": "cache", "persistentVolumeClaim": {"claimName": CLAIM}}
    mount = {"name": "cache", "mountPath": "/data"}
    container = {"name": "main", "image": "ytrainer", "volumeMounts": [mount]}
    pod["metadata"] = {"name": POD, "uid": "1"}
    pod["spec"] = {"containers": [container], "volumes": [claim]}
    found = inherited(LaunchConfig(nodes=3))
    assert found.volumes == (SharedVolume(CLAIM, "/data"),)
    assert found.environment == {"YTRAINER_HOME": "/data/ytrainer"}
    assert schema_faults(trainjob_manifest("train", "/data/ytrainer/nodes", found)) == []


def no_claim(pod: dict[str, Any], main: dict[str, Any]) -> None:
    pod["spec"]["volumes"][-3] = {"name": "cache", "emptyDir": {}}


def not_mounted(pod: dict[str, Any], main: dict[str, Any]) -> None:
    main["volumeMounts"] = []


def mounted_read_only(pod: dict[str, Any], main: dict[str, Any]) -> None:
    main["volumeMounts"][-3]["readOnly"] = True


def claimed_read_only(pod: dict[str, Any], main: dict[str, Any]) -> None:
    pod["spec"]["volumes"][-3]["persistentVolumeClaim"]["readOnly"] = True


def a_path_of_the_pods_own(pod: dict[str, Any], main: dict[str, Any]) -> None:
    main["volumeMounts"][-3] = {"name": "cache", "mountPath": "/data", "subPathExpr": "$(POD)"}


def a_disk_of_the_pods_own_within(pod: dict[str, Any], main: dict[str, Any]) -> None:
    main["volumeMounts"].append({"name": "s3-scratch", "mountPath": "/data/ytrainer"})


@pytest.mark.parametrize(
    "spoil",
    [
        no_claim,
        not_mounted,
        mounted_read_only,
        claimed_read_only,
        a_path_of_the_pods_own,
        a_disk_of_the_pods_own_within,
    ],
)
def test_a_home_that_the_nodes_cannot_share_is_refused(
    spoil: Callable[..., None],
    inherited: Callable[..., Nodes],
    main: dict[str, Any],
    pod: dict[str, Any],
) -> None:
    spoil(pod, main)
    with pytest.raises(ConfigError, match=r"YTRAINER_HOME=/data/ytrainer lies on no Persistent"):
        inherited()


def test_the_refusal_names_where_a_home_could_lie(
    inherited: Callable[..., Nodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YTRAINER_HOME", "/corpora/home")
    with pytest.raises(ConfigError) as caught:
        inherited()
    assert "launch.nodes=2: YTRAINER_HOME=/corpora/home" in str(caught.value)
    assert "ReadWriteMany (here: team-cache at /data), and set YTRAINER_HOME" in str(caught.value)


def test_outside_of_a_cluster_it_is_said_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError) as caught:
        own_cluster(LaunchConfig(nodes=3))
    assert str(caught.value).startswith("launch.nodes=3 needs a cluster: ")
    assert str(caught.value).endswith("set launch.nodes=1 to train here.")


def test_the_pods_whole_name_is_preferred_to_the_host_name_which_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = KubernetesApi("http://127.0.0.1:1", NAMESPACE)
    monkeypatch.setattr(KubernetesApi, "in_cluster", lambda: api)
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    assert own_cluster(LAUNCH) == (api, socket.gethostname())
    monkeypatch.setenv("KFP_POD_NAME", "a" * 70)
    assert own_cluster(LAUNCH) == (api, "a" * 70)


def test_only_volumes_that_can_be_written_to_hold_what_the_nodes_write() -> None:
    nodes = Nodes("image", 2, 1, volumes=(SharedVolume("corpora", "/corpora", read_only=True),))
    assert is_shared("/corpora/rows", nodes) and not is_shared("/corpora2", nodes)
    assert not is_shared("/corpora/rows", nodes, to_write=True)
