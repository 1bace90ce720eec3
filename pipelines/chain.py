"""The seven steps that finetune and retrain share, from a corpus to a champion."""

from typing import Any, NamedTuple

from kfp import dsl

from components.evaluate import evaluate
from components.order import order
from components.promote import promote
from components.register import register
from components.score import score
from components.sft import sft
from components.validate import validate

Outputs = NamedTuple("Outputs", [("passed", bool), ("version", str)])


def chain(
    *,
    model_name_or_path: Any,
    init_from: Any,
    data_train: Any,
    data_validation: Any,
    data_general: Any,
    earlier_ratio: Any,
    max_rows: Any,
    max_length: Any,
    objective: Any,
    learning_rate: Any,
    num_train_epochs: Any,
    lora_rank: Any,
    order_mode: Any,
    max_general_loss_rise: Any,
    registered_model_name: Any,
    seed: Any,
    config: Any,
) -> Outputs:
    """Validate, score, order, tune, evaluate, register, and promote what passes the gate.

    To be called in the body of a pipeline, with its parameters. Returns the gate's verdict and
    the URI of the registered version, as outputs of steps.
    """
    common = {"model_name_or_path": model_name_or_path, "seed": seed, "config": config}
    earlier = {"init_from": init_from, "earlier_ratio": earlier_ratio}
    corpus = validate(
        data_train=data_train,
        data_validation=data_validation,
        data_general=data_general,
        max_rows=max_rows,
        max_length=max_length,
        **earlier,
        **common,
    )
    scored = score(dataset=corpus.outputs["dataset"], max_length=max_length, **common)
    ordered = order(
        dataset=scored.outputs["scored"],
        scores=scored.outputs["scores"],
        order_mode=order_mode,
        seed=seed,
        config=config,
    )
    tuned = sft(
        dataset=scored.outputs["scored"],
        order_file=ordered.outputs["order_file"],
        max_length=max_length,
        objective=objective,
        learning_rate=learning_rate,
        num_train_epochs=num_train_epochs,
        lora_rank=lora_rank,
        **earlier,
        **common,
    )
    judged = evaluate(
        model=tuned.outputs["model"],
        dataset=scored.outputs["scored"],
        max_length=max_length,
        max_general_loss_rise=max_general_loss_rise,
        registered_model_name=registered_model_name,
        **common,
    )
    judged.set_caching_options(False)  # the champion may be another one by now
    registered = register(
        model=tuned.outputs["model"],
        evaluation=judged.outputs["evaluation"],
        model_name_or_path=model_name_or_path,
        registered_model_name=registered_model_name,
        config=config,
    )
    registered.set_caching_options(False)
    # kfp.local resolves a condition only on a task's single, unnamed output
    with dsl.If(judged.outputs["Output"] == True, name="gate passed"):  # noqa: E712
        promoted = promote(
            version=registered.outputs["Output"],
            registered_model_name=registered_model_name,
            config=config,
        )
        promoted.set_caching_options(False)
    return Outputs(passed=judged.outputs["Output"], version=registered.outputs["Output"])
