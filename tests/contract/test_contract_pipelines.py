"""The compiled pipeline: same source, same bytes, equal to the committed file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from parity import given_by, shape_of, tasks_of

from pipelines import PIPELINES
from pipelines.compile import compile_to
from pipelines.configs import PIPELINE_CONFIGS, TUNING_CONFIGS
from pipelines.placement import parameters_of
from ytrainer_core.config import STAGE_CONFIGS, ClusterConfig, FinetuneConfig, dump_json, narrow
from ytrainer_core.config.base import description_of, get_dotted, walk_fields
from ytrainer_core.config.headline import (
    HEADLINE,
    as_parameter,
    headline_default,
    join_headline,
    split_headline,
)

ROOT = Path(__file__).parents[2]

every_pipeline = pytest.mark.parametrize("name", list(PIPELINES))
tuning_pipeline = pytest.mark.parametrize("name", list(TUNING_CONFIGS))
judged_pipeline = pytest.mark.parametrize("name", [*TUNING_CONFIGS, "kto"])


def committed(name: str) -> Path:
    return ROOT / "pipelines" / "compiled" / f"{name}.yaml"


def tree_of(name: str) -> dict[str, Any]:
    """The pipeline's own document; the one behind it says where its steps run."""
    tree: dict[str, Any] = next(yaml.safe_load_all(committed(name).read_text(encoding="utf-8")))
    return tree


@every_pipeline
def test_the_committed_yaml_is_what_the_source_compiles_to(name: str, tmp_path: Path) -> None:
    compile_to(name, tmp_path / "here.yaml")
    assert (tmp_path / "here.yaml").read_bytes() == committed(name).read_bytes(), (
        f"{committed(name)} is stale. Run: ytrainer pipeline compile {name}"
    )


@every_pipeline
def test_another_process_with_another_hash_seed_compiles_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "there.yaml"
    program = "from ytrainer_core.cli import main; main()"
    command = [sys.executable, "-c", program, "pipeline", "compile", name, "--out", str(path)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)
    assert path.read_bytes() == committed(name).read_bytes()


@every_pipeline
def test_the_run_form_shows_every_headline_knob_with_default_and_description(name: str) -> None:
    parameters = tree_of(name)["root"]["inputDefinitions"]["parameters"]
    own = PIPELINE_CONFIGS[name]().model_dump(mode="json")
    told = {dotted: description_of(field) for dotted, field in walk_fields(PIPELINE_CONFIGS[name])}
    places = parameters_of(ClusterConfig())
    assert set(parameters) <= {*HEADLINE, *places, "config"}
    assert set(parameters) >= {"data_train", "max_length", "seed", *places, "config"}
    for key in set(parameters) - {"config"}:
        dotted = HEADLINE.get(key, f"cluster.{key}")
        default = places[key] if key in places else as_parameter(get_dotted(own, dotted))
        assert parameters[key]["defaultValue"] == default, key
        assert " ".join(parameters[key]["description"].split()) == told[dotted], key
    assert parameters["config"]["description"]


@tuning_pipeline
def test_a_tuning_pipeline_shows_all_of_them(name: str) -> None:
    parameters = tree_of(name)["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {*HEADLINE, *parameters_of(ClusterConfig()), "config"}


@every_pipeline
def test_every_parameter_reaches_a_step(name: str) -> None:
    asked = {
        source["componentInputParameter"].removeprefix("pipelinechannel--")
        for _, spec in tasks_of(tree_of(name))
        for source in spec.get("inputs", {}).get("parameters", {}).values()
        if "componentInputParameter" in source
    }
    text = committed(name).read_text(encoding="utf-8")
    placed = {
        key
        for key in parameters_of(ClusterConfig())
        if f"pipelinechannel--{key}']" in text or f"componentInputParameter: {key}\n" in text
    }
    assert set(tree_of(name)["root"]["inputDefinitions"]["parameters"]) <= asked | placed


@every_pipeline
def test_nothing_is_taken_from_kubeflows_cache(name: str) -> None:
    """It goes by addresses and names; what lies there may have changed."""
    for task, spec in tasks_of(tree_of(name)):
        assert task not in STAGE_CONFIGS or not spec["cachingOptions"].get("enableCache"), task


@every_pipeline
def test_what_a_cluster_runs_is_what_this_machine_runs(name: str) -> None:
    """The same steps, artifacts, parameters and programs; a cluster is told where, besides."""
    here = MessageToDict(PIPELINES[name].pipeline_spec)
    assert shape_of(here) == shape_of(tree_of(name))
    assert not any("retryPolicy" in task for _, task in tasks_of(here))
    assert not any(
        "resources" in e["container"] for e in here["deploymentSpec"]["executors"].values()
    )


@every_pipeline
def test_every_step_gives_its_report_and_its_metrics(name: str) -> None:
    for step, (artifacts, _) in given_by(tree_of(name)).items():
        assert "metrics" in artifacts, step
        assert "report" in artifacts or step in ("register", "promote"), step


def test_every_pipeline_has_a_config() -> None:
    assert list(PIPELINE_CONFIGS) == list(PIPELINES)


def test_retraining_replays_more_of_what_the_champion_was_trained_on() -> None:
    defaults = {
        name: tree_of(name)["root"]["inputDefinitions"]["parameters"]["earlier_ratio"]
        for name in ("finetune", "retrain")
    }
    assert defaults["finetune"]["defaultValue"] == 0.1
    assert defaults["retrain"]["defaultValue"] == 0.2


def test_preference_tuning_starts_with_its_own_rate_and_replays_nothing() -> None:
    """Its stage's defaults: a step that is told nothing else gets them."""
    assert PIPELINE_CONFIGS["kto"]().model_dump()["optim"]["learning_rate"] == 1e-5
    shown = tree_of("kto")["root"]["inputDefinitions"]["parameters"]
    assert shown["earlier_ratio"]["defaultValue"] == 0.0
    headline, rest = split_headline(PIPELINE_CONFIGS["kto"], {"preference": {"beta": 0.2}})
    config: Any = narrow(STAGE_CONFIGS["kto"], join_headline(STAGE_CONFIGS["kto"], rest, headline))
    assert (config.preference.beta, config.optim.learning_rate) == (0.2, 1e-5)


def test_a_pipelines_own_default_reaches_the_steps_and_what_the_user_says_wins() -> None:
    model = STAGE_CONFIGS["sft"]
    for said, ratio in [({}, 0.2), ({"data": {"earlier_ratio": 0.1}}, 0.1)]:
        headline, rest = split_headline(FinetuneConfig, said)
        given = {"earlier_ratio": 0.2} | headline  # kfp fills in the pipeline's default
        assert narrow(model, join_headline(model, rest, given)).data.earlier_ratio == ratio


@judged_pipeline
def test_every_step_that_looks_at_the_earlier_model_is_told_which_it_is(name: str) -> None:
    told = {
        task: {
            source["componentInputParameter"]
            for key, source in spec["inputs"].get("parameters", {}).items()
            if key == "init_from"
        }
        for task, spec in tasks_of(tree_of(name))
        if task in STAGE_CONFIGS
    }
    trains = told.keys() & {"sft", "cpt", "kto"}
    assert len(trains) == 1
    assert all(told[step] == {"init_from"} for step in ("validate", *trains))


@judged_pipeline
def test_the_gate_register_and_promote_work_on_one_registered_name(name: str) -> None:
    named = {
        task
        for task, spec in tasks_of(tree_of(name))
        if "registered_model_name" in spec.get("inputs", {}).get("parameters", {})
    }
    assert named >= {"evaluate", "register", "promote"}


@judged_pipeline
def test_promotion_waits_for_the_gate(name: str) -> None:
    tree = tree_of(name)
    assert "promote" not in tree["root"]["dag"]["tasks"]
    conditions = {
        task: spec["triggerPolicy"]["condition"]
        for task, spec in tree["root"]["dag"]["tasks"].items()
        if "triggerPolicy" in spec
    }
    assert len(conditions) == 1
    (condition,) = conditions.values()
    assert "evaluate" in condition and condition.endswith("== true")


SAID: dict[str, Any] = {
    "model": {"name_or_path": "some/base"},
    "data": {"train": ["a.json", "b.json"], "max_rows": 500, "train_on": "last_turn"},
    "optim": {"learning_rate": "1e-4", "warmup_steps": 3},
    "train": {"num_train_epochs": 2, "max_steps": 7},
    "lora": {"rank": 4, "alpha": 8},
    "gate": {"min_rows": 3},
    "seed": 7,
}
"""A tree as YAML gives it: 1e-4 without a dot is text, whole numbers are ints."""


def as_kfp_passes(value: Any) -> Any:
    """A dict parameter as kfp hands it over: every number a float."""
    if isinstance(value, dict):
        return {key: as_kfp_passes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_kfp_passes(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_headline_parameters_have_the_types_that_kfp_declares() -> None:
    headline, rest = split_headline(FinetuneConfig, SAID)
    assert headline == {
        "model_name_or_path": "some/base",
        "data_train": "a.json,b.json",
        "max_rows": 500,
        "learning_rate": 1e-4,
        "num_train_epochs": 2.0,
        "lora_rank": 4,
        "seed": 7,
    }
    for key, value in headline.items():
        assert type(value) is type(headline_default(FinetuneConfig, key)), key
    assert rest == {
        "data": {"train_on": "last_turn"},
        "optim": {"warmup_steps": 3},
        "train": {"max_steps": 7},
        "lora": {"alpha": 8},
        "gate": {"min_rows": 3},
    }


@pytest.mark.parametrize("stage", sorted(STAGE_CONFIGS))
def test_a_stage_gets_the_same_config_from_the_command_line_and_from_kubeflow(stage: str) -> None:
    model = STAGE_CONFIGS[stage]
    by_command = narrow(model, SAID)
    headline, rest = split_headline(FinetuneConfig, SAID)
    knobs = {dotted for dotted, _ in walk_fields(model)}
    own = {key: value for key, value in headline.items() if HEADLINE[key] in knobs}
    by_kubeflow = narrow(model, join_headline(model, as_kfp_passes(rest), own))
    assert dump_json(by_kubeflow) == dump_json(by_command)
