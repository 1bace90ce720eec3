"""What a compiled pipeline tells a cluster of its steps: their size, nodes, secrets, patience."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import IMAGE
from pipelines import PIPELINES
from pipelines.arguments import arguments_of, placement_of
from pipelines.compile import compile_to
from ytrainer_core.errors import ConfigError

DIGEST = "sha256:" + "0123456789abcdef" * 4
STEPS = {"validate", "score", "order", "sft", "evaluate", "register", "promote"}
LIGHT = {"order", "promote"}

Compiled = tuple[dict[str, Any], dict[str, Any]]
Compile = Callable[..., Compiled]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """compiled(**knobs of cluster) -> (the pipeline, what the cluster is told), of finetune."""

    def do(**knobs: Any) -> Compiled:
        path = tmp_path / "finetune.yaml"
        compile_to("finetune", path, placement_of("finetune", {"cluster": knobs}))
        pipeline, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    return do


def containers(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Step -> its container."""
    executors = pipeline["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): found["container"] for name, found in executors.items()}


def channel(name: str) -> str:
    return "{{$.inputs.parameters['pipelinechannel--" + name + "']}}"


def test_a_step_asks_for_what_the_run_says_and_light_ones_for_little(compiled: Compile) -> None:
    found = containers(compiled()[0])
    assert set(found) == STEPS
    for step, container in found.items():
        size = container["resources"]
        cpu, memory = size["resourceCpuRequest"], size["resourceMemoryRequest"]
        assert (size["resourceCpuLimit"], size["resourceMemoryLimit"]) == (cpu, memory)
        assert (cpu, memory) == (
            ("1", "4Gi") if step in LIGHT else (channel("cpu"), channel("memory"))
        )
        gpus = {"resourceCount": channel("gpus"), "resourceType": channel("gpu_type")}
        assert size.get("accelerator") == (None if step in {*LIGHT, "validate"} else gpus)


def test_what_a_run_may_say_is_a_parameter_with_the_default_of_the_config(
    compiled: Compile,
) -> None:
    pipeline, _ = compiled(
        cpu=8, memory="64Gi", gpus=2, node_selector={"pool": "idle"},
        tolerations="spot=yes:NoSchedule, gpu:NoExecute, slow", s3_secret="minio",
    )  # fmt: skip
    shown = pipeline["root"]["inputDefinitions"]["parameters"]
    assert shown["cpu"] == {**shown["cpu"], "defaultValue": "8", "parameterType": "STRING"}
    # Kubeflow's driver reads the text of a parameter here: of a number it would make no GPU at all
    assert shown["gpus"] == {**shown["gpus"], "defaultValue": "2", "parameterType": "STRING"}
    assert shown["memory"]["defaultValue"] == "64Gi"
    assert shown["node_selector"]["defaultValue"] == {"pool": "idle"}
    assert shown["tolerations"]["defaultValue"] == [
        {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
        {"key": "slow", "operator": "Exists"},
    ]
    assert shown["s3_secret"]["defaultValue"] == "minio"


def test_nodes_and_secrets_reach_every_step_also_behind_the_gate(compiled: Compile) -> None:
    _, told = compiled()
    assert {name.removeprefix("exec-") for name in told} == STEPS
    for step, place in told.items():
        prefix = "pipelinechannel--" if step == "exec-promote" else ""

        def given(name: str, prefix: str = prefix) -> dict[str, str]:
            return {"componentInputParameter": prefix + name}

        assert place["nodeSelector"] == {"nodeSelectorJson": given("node_selector")}
        assert place["tolerations"] == [{"tolerationJson": given("tolerations")}]
        secrets = {
            s["secretNameParameter"]["componentInputParameter"] for s in place["secretAsEnv"]
        }
        assert secrets == {prefix + name for name in ("s3_secret", "mlflow_secret", "hub_secret")}
        assert all(secret["optional"] for secret in place["secretAsEnv"])
        variables = {k["envVar"] for s in place["secretAsEnv"] for k in s["keyToEnv"]}
        assert {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI", "HF_TOKEN"} <= variables


def test_shared_memory_time_and_second_starts_have_sensible_defaults(compiled: Compile) -> None:
    pipeline, told = compiled()
    for step, place in told.items():
        assert place["activeDeadlineSeconds"] == str(24 * 3600)
        shm = [m for m in place.get("emptyDirMounts", []) if m["mountPath"] == "/dev/shm"]
        assert bool(shm) == (step.removeprefix("exec-") not in LIGHT)
        assert all((m["medium"], m["sizeLimit"]) == ("Memory", "8Gi") for m in shm)
    retry = pipeline["root"]["dag"]["tasks"]["sft"]["retryPolicy"]
    assert (retry["maxRetryCount"], retry["backoffDuration"]) == (2, "60s")
    # Argo takes it from the first start on: less, and a long training would never be retried
    assert int(retry["backoffMaxDuration"].rstrip("s")) >= 3 * 24 * 3600 + 60 + 120


def test_no_limit_of_time_is_none_for_later_starts_either(compiled: Compile) -> None:
    pipeline, _ = compiled(timeout_hours=0)
    retry = pipeline["root"]["dag"]["tasks"]["sft"]["retryPolicy"]
    assert int(retry["backoffMaxDuration"].rstrip("s")) > 300 * 24 * 3600
    _, told = compiled(timeout_hours=0.0001)
    assert told["exec-sft"]["activeDeadlineSeconds"] == "1"


def test_a_step_that_several_machines_do_takes_no_gpu_and_needs_a_shared_volume(
    tmp_path: Path,
) -> None:
    tree = {"launch": {"nodes": 2}, "cluster": {"gpus": 8, "cache_claim": "shared"}}
    compile_to("finetune", tmp_path / "p.yaml", placement_of("finetune", tree))
    found = containers(next(yaml.safe_load_all((tmp_path / "p.yaml").read_text())))
    with_gpu = {step for step, each in found.items() if "accelerator" in each["resources"]}
    assert with_gpu == {"score", "evaluate", "register"}
    with pytest.raises(ConfigError, match=r"cluster\.cache_claim"):
        placement_of("finetune", {"launch": {"nodes": 2}})


def test_a_secret_without_a_name_is_none(compiled: Compile) -> None:
    """Where Kubeflow itself sets MLFLOW_TRACKING_URI, a second source of it would be refused."""
    _, told = compiled(mlflow_secret="")
    variables = {k["envVar"] for s in told["exec-sft"]["secretAsEnv"] for k in s["keyToEnv"]}
    assert "AWS_ACCESS_KEY_ID" in variables
    assert not any(name.startswith("MLFLOW") for name in variables)


def test_what_is_set_to_nothing_is_left_out(compiled: Compile) -> None:
    pipeline, told = compiled(shared_memory="", timeout_hours=0, retries=0)
    assert "retryPolicy" not in pipeline["root"]["dag"]["tasks"]["sft"]
    for place in told.values():
        assert not {"emptyDirMounts", "activeDeadlineSeconds", "pvcMount", "podMetadata"} & {*place}


def test_caches_outlive_a_step_where_there_is_a_claim(compiled: Compile) -> None:
    pipeline, told = compiled(cache_claim="shared", labels="kueue.x-k8s.io/queue-name=idle",
                              image_pull_secrets="registry")  # fmt: skip
    for place in told.values():
        (mount,) = place["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("shared", "/cache")
        assert place["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "idle"}
        assert [each["secretName"] for each in place["imagePullSecret"]] == ["registry"]
    for container in containers(pipeline).values():
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables == {"YTRAINER_HOME": "/cache", "HF_HOME": "/cache/huggingface"}


def test_a_releases_pipeline_differs_in_image_and_digest_alone(compiled: Compile) -> None:
    image = f"reg.local:5000/team/ytrainer@{DIGEST}"
    plain, place = compiled()
    release, same_place = compiled(image=image)
    for container in containers(release).values():
        assert container.pop("image") == image
        assert container.pop("env") == [{"name": "YTRAINER_IMAGE_DIGEST", "value": DIGEST}]
    for container in containers(plain).values():
        assert container.pop("image") == IMAGE
    assert (plain, place) == (release, same_place)


def test_a_tag_names_no_digest(compiled: Compile) -> None:
    for container in containers(compiled(image="reg/ytrainer:2")[0]).values():
        assert container["image"] == "reg/ytrainer:2" and "env" not in container


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("image", "reg/ytrainer@sha256:abc"),
        ("image", "two words"),
        ("image", "UPPER/ytrainer"),
        ("image", "a@b"),
        ("cpu", "many"),
        ("memory", "16 GB"),
        ("memory", "16ki"),
        ("s3_secret", "Bad_Name"),
        ("cache_claim", "bad name"),
        ("tolerations", "key=value:Sometimes"),
        ("node_selector", "pool"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_before(knob: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"cluster.{knob}"):
        placement_of("finetune", {"cluster": {knob: value}})


@pytest.mark.parametrize(
    ("name", "headline", "rest"),
    [
        ("finetune", {"learning_rate": 1e-4, "registered_model_name": "m"}, {"lora": {"alpha": 8}}),
        ("pretrain", {"registered_model_name": "m"},
         {"optim": {"learning_rate": "1e-4"}, "lora": {"alpha": 8}}),
    ],
)  # fmt: skip
def test_a_config_becomes_the_parameters_that_a_pipeline_has(
    name: str, headline: dict[str, Any], rest: dict[str, Any]
) -> None:
    tree = {"optim": {"learning_rate": "1e-4"}, "registry": {"name": "m"}, "lora": {"alpha": 8},
            "cluster": {"gpus": 1, "cache_claim": "shared"}}  # fmt: skip
    given = arguments_of(name, tree, PIPELINES[name])
    assert given.pop("config") == rest
    assert given == given | headline | {"gpus": "1", "cpu": "4", "s3_secret": "ytrainer-s3"}
    assert given.keys() <= PIPELINES[name].component_spec.inputs.keys()
