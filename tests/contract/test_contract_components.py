"""A component is its stage: same defaults, same types, same inputs and outputs, nothing of its own.

The component's function is called with stand-ins, so what is checked is what a pod would do.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import IMAGE
from components.readme import FOLDER, load, names, readme, type_text
from ytrainer_core import __version__
from ytrainer_core.config import STAGE_CONFIGS, FinetuneConfig, walk_fields
from ytrainer_core.config.base import description_of
from ytrainer_core.config.headline import HEADLINE, headline_default
from ytrainer_core.stages import STAGES, StageResult

BODY_LINES = 40
SCHEMA_TITLE = {"dataset": "Dataset", "model": "Model", "artifact": "Artifact", "html": "HTML"}
PARAMETER_TYPE = {str: "String", int: "Integer", float: "Float", bool: "Boolean"}

every_component = pytest.mark.parametrize("name", names())


def is_artifact(kind: str) -> bool:
    return "@" in kind


def artifact_kind(kind: str) -> str:
    return kind.split("@")[0].removeprefix("system.")


class Artifact(SimpleNamespace):
    """Stands for a kfp artifact; its path names it."""

    metrics: dict[str, float]

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


def call(name: str, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> dict[str, Any]:
    """What a component's body hands to run_component, and what it made of the answer."""
    seen: dict[str, Any] = {}

    def run_component(stage: str, config: Mapping[str, Any], **rest: Any) -> StageResult:
        seen.update(rest, stage=stage, config=config)
        return StageResult(metrics={"m": 1.5}, values={"passed": True, "version": "models:/m/1"})

    monkeypatch.setattr("ytrainer_core.stages.run_component", run_component)
    component = load(name)
    spec = component.component_spec
    artifacts = {
        key: Artifact(path=f"<{key}>", metrics={})
        for key, given in {**(spec.inputs or {}), **(spec.outputs or {})}.items()
        if is_artifact(given.type)
    }
    seen["returned"] = component.python_func(**artifacts, **parameters)
    seen["metrics"] = artifacts["metrics"].metrics
    return seen


def headline_of(name: str) -> dict[str, Any]:
    """Optional parameters of a component without `config`: name -> spec."""
    inputs = load(name).component_spec.inputs or {}
    return {
        key: given
        for key, given in inputs.items()
        if given.optional and key != "config" and not is_artifact(given.type)
    }


def test_every_stage_has_a_component_and_every_component_a_stage() -> None:
    assert names() == sorted(STAGES)


@every_component
def test_a_components_defaults_are_those_of_the_config_fields(name: str) -> None:
    model = STAGE_CONFIGS[name]
    said = {key: given.default for key, given in headline_of(name).items()}
    assert said == {key: headline_default(model, key) for key in said}


@every_component
def test_a_components_parameter_types_are_those_of_the_config_fields(name: str) -> None:
    model, component = STAGE_CONFIGS[name], load(name)
    signature = inspect.signature(component.python_func).parameters
    for key in headline_of(name):
        kind = type(headline_default(model, key))
        assert signature[key].annotation is kind, key


@every_component
def test_every_parameter_of_a_component_stands_for_a_knob_that_its_stage_reads(name: str) -> None:
    knobs = {dotted for dotted, _ in walk_fields(STAGE_CONFIGS[name])}
    shown = {HEADLINE[key] for key in headline_of(name)}
    assert shown <= knobs


@every_component
def test_a_component_hands_each_parameter_on_under_its_own_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {key: f"value of {key}" for key in headline_of(name)}
    needed = {
        key: f"<{key}>"
        for key, spec in (load(name).component_spec.inputs or {}).items()
        if not spec.optional and not is_artifact(spec.type)
    }
    seen = call(name, monkeypatch, **given, **needed, config={"a": 1})
    assert seen["stage"] == name
    assert seen["headline"] == given
    assert seen["config"] == {"a": 1}


@every_component
def test_a_components_inputs_and_outputs_are_its_stages(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, stage = load(name).component_spec, STAGES[name]
    inputs, outputs = spec.inputs or {}, spec.outputs or {}
    needed = {
        key: f"<{key}>"
        for key, given in inputs.items()
        if not given.optional and not is_artifact(given.type)
    }
    seen = call(name, monkeypatch, **needed)
    read = {key: path.strip("<>") for key, path in seen.get("inputs", {}).items()}
    written = {key: path.strip("<>") for key, path in seen.get("outputs", {}).items()}
    assert tuple(sorted(read)) == tuple(sorted(stage.inputs))
    assert set(written) == set(stage.outputs)
    assert set(read.values()) == set(needed) | {
        key for key, given in inputs.items() if is_artifact(given.type)
    }
    kinds = {key: artifact_kind(outputs[own].type) for key, own in written.items()}
    assert kinds == {key: SCHEMA_TITLE[kind] for key, kind in stage.outputs.items()}
    made = {key for key, out in outputs.items() if is_artifact(out.type)}
    assert made == set(written.values()) | {"metrics"}
    assert artifact_kind(outputs["metrics"].type) == "Metrics"


@every_component
def test_a_component_logs_the_stages_metrics(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        key: f"<{key}>"
        for key, given in (load(name).component_spec.inputs or {}).items()
        if not given.optional and not is_artifact(given.type)
    }
    assert call(name, monkeypatch, **needed)["metrics"] == {"m": 1.5}


@pytest.mark.parametrize(("name", "value"), [("evaluate", True), ("register", "models:/m/1")])
def test_the_gate_and_the_version_are_output_parameters(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = call(name, monkeypatch)["returned"]
    assert (returned if not isinstance(returned, tuple) else returned[0]) == value


@every_component
def test_a_component_is_a_shell(name: str) -> None:
    function = ast.parse(textwrap.dedent(inspect.getsource(load(name).python_func))).body[0]
    assert isinstance(function, ast.FunctionDef)
    last = function.end_lineno
    assert last is not None and last - function.body[0].lineno + 1 <= BODY_LINES


@every_component
def test_a_component_runs_in_the_released_image_and_installs_nothing(name: str) -> None:
    container = load(name).component_spec.implementation.container
    assert container.image == IMAGE == f"ytrainer:{__version__}"
    command = " ".join(str(part) for part in container.command)
    assert "pip install" not in command


@every_component
def test_a_components_readme_is_not_stale(name: str) -> None:
    path = FOLDER / name / "README.md"
    assert path.is_file() and path.read_text(encoding="utf-8") == readme(name), (
        f"{path} is stale. Run: python -m components.readme"
    )


def test_a_readme_lists_every_knob_of_its_stage_with_its_description() -> None:
    text = readme("sft")
    for dotted, field in walk_fields(STAGE_CONFIGS["sft"]):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{dotted}` |"))
        assert row.endswith(f"| {description_of(field)} |")


@pytest.mark.parametrize(
    ("dotted", "shown"),
    [
        ("data.max_length", "int ≥ 8"),
        ("optim.learning_rate", "float > 0"),
        ("optim.adam_beta1", "float ≥ 0, < 1"),
        ("data.on_too_long", "`drop` · `truncate` · `split`"),
        ("data.train", "list of str"),
        ("train.tensorboard", "bool"),
    ],
)
def test_a_readme_shows_types_with_their_bounds(dotted: str, shown: str) -> None:
    field = dict(walk_fields(FinetuneConfig))[dotted]
    assert type_text(field.annotation, field.metadata) == shown


def test_components_live_where_the_readme_tool_looks() -> None:
    assert Path(__file__).parents[2] / "components" == FOLDER
