"""The steps that every tuning pipeline shares, from a corpus to a champion."""

from typing import Any, NamedTuple

from kfp import dsl

from components.evaluate import evaluate
from components.order import order
from components.promote import promote
from components.register import register
from components.score import score
from components.validate import validate
from pipelines.definition import Steps

Outputs = NamedTuple("Outputs", [("passed", bool), ("version", str)])


def corpus_to_champion(steps: Steps, tune: Any) -> Outputs:
    """Validate, score, order, tune, evaluate, register, and promote what passes the gate.

    tune: the component that trains. Returns the gate's verdict and the URI of the registered
    version, as outputs of steps.
    """
    corpus = steps.add(validate)
    scored = steps.add(score, dataset=corpus.outputs["dataset"])
    dataset = scored.outputs["scored"]
    ordered = steps.add(order, dataset=dataset, scores=scored.outputs["scores"])
    tuned = steps.add(tune, dataset=dataset, order_file=ordered.outputs["order_file"])
    return champion_of(steps, tuned.outputs["model"], dataset)


def champion_of(steps: Steps, model: Any, dataset: Any) -> Outputs:
    """Evaluate a tuned model, register it, and promote it where it passes the gate."""
    judged = steps.add(evaluate, model=model, dataset=dataset)
    registered = steps.add(register, model=model, evaluation=judged.outputs["evaluation"])
    # kfp.local resolves a condition only on a task's single, unnamed output
    with dsl.If(judged.outputs["Output"] == True, name="gate passed"):  # noqa: E712
        steps.add(promote, version=registered.outputs["Output"])
    return Outputs(passed=judged.outputs["Output"], version=registered.outputs["Output"])
