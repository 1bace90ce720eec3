"""The TrainJob says what was asked for, in fields that the published schema knows."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from ytrainer_core.cluster.trainjob import (
    DIGEST_ANNOTATION,
    Nodes,
    SecretVariable,
    SharedVolume,
    fit_name,
    schema_faults,
    trainjob_manifest,
)
from ytrainer_core.errors import ConfigError

PLAIN = Nodes("registry/ytrainer:1", 2, 4, volumes=(SharedVolume("work", "/data"),))
FULL = Nodes(
    image="registry/ytrainer@sha256:0",
    nodes=4,
    processes_per_node=8,
    cpu="32",
    memory="256Gi",
    gpus=8,
    shared_memory="16Gi",
    volumes=(
        SharedVolume("work", "/data"),
        SharedVolume("hub", "/cache", "models", read_only=True),
    ),
    environment={"NCCL_DEBUG": "WARN", "AWS_ENDPOINT_URL": "http://minio"},
    secrets=(SecretVariable("AWS_SECRET_ACCESS_KEY", "s3", "secret"),),
    node_selector={"gpu": "h100"},
    tolerations=({"key": "idle", "operator": "Exists", "effect": "NoSchedule"},),
    service_account="trainer",
    image_pull_secrets=("registry",),
    runtime="torch-volcano",
    deadline_seconds=3600,
    kueue_queue="team-queue",
    kueue_priority_class="idle",
    volcano_queue="gpus",
)


def made(nodes: Nodes = PLAIN, **options: Any) -> dict[str, Any]:
    return trainjob_manifest("train", "/data/task", nodes, **options)


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    pod: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return pod


def test_the_least_that_is_needed() -> None:
    manifest = made()
    digest = manifest["metadata"].pop("annotations")[DIGEST_ANNOTATION]
    assert len(digest) == 64
    assert manifest == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "train", "labels": {}},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": "torch-distributed",
            },
            "trainer": {
                "image": "registry/ytrainer:1",
                "command": [
                    *("python3", "-m", "torch.distributed.run"),
                    *("-m", "ytrainer_core.training.worker", "/data/task"),
                ],
                "numNodes": 2,
                "numProcPerNode": 4,
                "resourcesPerNode": {
                    "requests": {"cpu": "4", "memory": "16Gi"},
                    "limits": {"cpu": "4", "memory": "16Gi"},
                },
                "env": [],
            },
            "runtimePatches": [
                {
                    "manager": "ytrainer/launcher",
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {
                                "replicatedJobs": [
                                    {
                                        "name": "node",
                                        "template": {
                                            "spec": {"template": {"spec": pod_of(manifest)}}
                                        },
                                    }
                                ]
                            }
                        }
                    },
                }
            ],
        },
    }
    assert pod_of(manifest) == {
        "volumes": [{"name": "shared-0", "persistentVolumeClaim": {"claimName": "work"}}],
        "containers": [
            {"name": "node", "volumeMounts": [{"name": "shared-0", "mountPath": "/data"}]}
        ],
    }


def test_everything_that_can_be_asked_for_is_there_and_known_to_the_schema() -> None:
    manifest = made(FULL, labels={"ytrainer/stage": "sft"})
    spec, pod = manifest["spec"], pod_of(manifest)
    assert schema_faults(manifest) == []
    assert manifest["metadata"]["labels"] == {
        "ytrainer/stage": "sft",
        "kueue.x-k8s.io/queue-name": "team-queue",
        "kueue.x-k8s.io/priority-class": "idle",
    }
    assert spec["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert spec["runtimeRef"]["name"] == "torch-volcano"
    assert spec["activeDeadlineSeconds"] == 3600
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    amounts = {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": amounts, "limits": amounts}
    assert trainer["env"] == [
        {
            "name": "AWS_SECRET_ACCESS_KEY",
            "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret", "optional": True}},
        },
        {"name": "AWS_ENDPOINT_URL", "value": "http://minio"},
        {"name": "NCCL_DEBUG", "value": "WARN"},
    ]
    template = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
    assert template["metadata"] == {"annotations": {"scheduling.volcano.sh/queue-name": "gpus"}}
    assert pod == {
        "volumes": [
            {"name": "shared-0", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "shared-1", "persistentVolumeClaim": {"claimName": "hub"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [
                    {"name": "shared-0", "mountPath": "/data"},
                    {
                        "name": "shared-1",
                        "mountPath": "/cache",
                        "subPath": "models",
                        "readOnly": True,
                    },
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "idle", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "trainer",
    }


def test_the_same_wish_has_the_same_digest_whoever_owns_it_and_another_has_another() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "1"}
    digests = [
        manifest["metadata"]["annotations"][DIGEST_ANNOTATION]
        for manifest in (made(), made(owner=owner), made(replace(PLAIN, nodes=3)))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("given", "fit"),
    [
        ("train", "train"),
        ("ytrainer-0123abcd", "ytrainer-0123abcd"),
        ("My_Run.v2", "my-run-v2"),
        ("0123abcd", "y-0123abcd"),
        ("-", "y"),
        ("a" * 62 + "-b", "a" * 62),
    ],
)
def test_names_are_made_fit(given: str, fit: str) -> None:
    assert fit_name(given) == fit
    assert made()["metadata"]["name"] == "train"
    assert schema_faults({**made(), "metadata": {"name": fit}}) == []


POD = (
    "spec.runtimePatches.0.trainingRuntimeSpec.template.spec.replicatedJobs.0"
    ".template.spec.template.spec"
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.podTemplateOverrides", []),
        ("spec.trainer.numNode", 2),
        ("spec.trainer.numProcPerNode", "auto"),
        ("spec.trainer.resourcesPerNode.limits.memory", "16 GB"),
        ("spec.runtimeRef", {"kind": "TrainingRuntime"}),
        ("metadata.name", "0train"),
        ("metadata.name", "a" * 64),
        ("apiVersion", "trainer.kubeflow.org/v2alpha1"),
        ("spec.runtimePatches.0.manager", ""),
        (f"{POD}.priorityClassName", "idle"),
        (f"{POD}.containers.0.env", [{"name": "A", "value": "b"}]),
        (f"{POD}.tolerations", [{"key": "a", "efect": "NoSchedule"}]),
        (f"{POD}.volumes.0.persistentVolumeClaim", {"claim": "work"}),
        ("spec.activeDeadlineSeconds", 0),
        ("spec.trainer.env", [{"name": f"A{i}", "value": ""} for i in range(129)]),
    ],
)
def test_the_schema_refuses_what_the_api_refuses_and_says_where(path: str, value: Any) -> None:
    manifest = copy.deepcopy(made(FULL))
    *parents, leaf = path.split(".")
    node: Any = manifest
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[leaf] = value
    faults = schema_faults(manifest)
    assert faults and all(fault.startswith(".".join(parents)) for fault in faults)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": 0}, "nodes=0: a training takes at least one"),
        ({"processes_per_node": 0}, "processes_per_node=0"),
        ({"gpus": 2}, "Set processes_per_node=2"),
        ({"environment": {"PET_NNODES": "2"}}, "PET_NNODES. Leave them out"),
        ({"secrets": (SecretVariable("PET_MASTER_ADDR", "a", "b"),)}, "PET_MASTER_ADDR"),
        ({"volumes": ()}, "/data/task: lies on no volume that the nodes share"),
        ({"volumes": (SharedVolume("other", "/dat"),)}, "/data/task: lies on no volume"),
        ({"volumes": (SharedVolume("a", "/data", read_only=True),)}, "/data/task: lies on no"),
        ({"kueue_priority_class": "idle"}, "Set kueue_queue too"),
        ({"memory": "16 GB"}, "resourcesPerNode"),
        ({"tolerations": ({"efect": "NoSchedule"},)}, "'efect' was unexpected"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_a_remedy(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(replace(PLAIN, **change))
    assert words in str(caught.value)


def test_all_faults_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        made(replace(PLAIN, nodes=0, volumes=()))
    assert len(caught.value.faults) == 2
