"""What a pipeline is, as its compiled form, its traced form and a finished run tell it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.placement import parameters_of
from ytrainer_core.config import ClusterConfig

_HOW = {"retryPolicy"}
_FACES = ("inputDefinitions", "outputDefinitions")
_PLACE = {f"pipelinechannel--{name}" for name in parameters_of(ClusterConfig())}
"""What kfp hands to a step for its size and its nodes alone."""

Made = dict[str, tuple[set[str], set[str]]]
"""Step -> (artifacts, parameters) that it gives."""


def tasks_of(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every task of a pipeline spec, also those inside conditions."""
    for dag in (spec["root"], *spec["components"].values()):
        yield from dag.get("dag", {}).get("tasks", {}).items()


def shape_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, steps, what they get from where, when they run; not where or how often."""
    return {
        "given": spec["root"].get("inputDefinitions"),
        "returned": spec["root"].get("outputDefinitions"),
        "steps": {
            name: {key: _without_place(value) for key, value in task.items() if key not in _HOW}
            for name, task in tasks_of(spec)
        },
        "components": {
            name: {key: _without_place(component.get(key)) for key in _FACES}
            for name, component in spec["components"].items()
            if "executorLabel" in component
        },
        "programs": {
            name: {key: executor["container"][key] for key in ("command", "args")}
            for name, executor in spec["deploymentSpec"]["executors"].items()
        },
    }


def _without_place(face: Any) -> Any:
    if not isinstance(face, Mapping) or "parameters" not in face:
        return face
    own = {
        name: value
        for name, value in face["parameters"].items()
        if not any(place in f"{name} {value}" for place in _PLACE)
    }
    rest = {key: value for key, value in face.items() if key != "parameters"}
    return {**rest, "parameters": own} if own else rest


def given_by(spec: Mapping[str, Any]) -> Made:
    """What each step is declared to give."""
    found: Made = {}
    for name, task in tasks_of(spec):
        component = spec["components"][task["componentRef"]["name"]]
        if "executorLabel" in component:
            outputs = component.get("outputDefinitions", {})
            found[name] = (set(outputs.get("artifacts", {})), set(outputs.get("parameters", {})))
    return found


def given_in(root: Path) -> Made:
    """What each step of a run below a pipeline root has given."""
    found: Made = {}
    for file in root.rglob("executor_output.json"):
        told = json.loads(file.read_text(encoding="utf-8"))
        artifacts, values = told.get("artifacts", {}), told.get("parameterValues", {})
        found[file.parent.name] = (set(artifacts), set(values))
    return found
