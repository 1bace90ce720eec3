"""The main job: a corpus goes in, a judged and registered model comes out."""

from typing import NamedTuple

from kfp import dsl

from components.evaluate import evaluate
from components.order import order
from components.promote import promote
from components.register import register
from components.score import score
from components.sft import sft
from components.validate import validate
from pipelines.headline import default, described


@dsl.pipeline(name="finetune")
@described
def finetune(
    model_name_or_path: str = default("model_name_or_path"),
    data_train: str = default("data_train"),
    data_validation: str = default("data_validation"),
    data_general: str = default("data_general"),
    max_rows: int = default("max_rows"),
    max_length: int = default("max_length"),
    objective: str = default("objective"),
    learning_rate: float = default("learning_rate"),
    num_train_epochs: float = default("num_train_epochs"),
    lora_rank: int = default("lora_rank"),
    order_mode: str = default("order_mode"),
    max_general_loss_rise: float = default("max_general_loss_rise"),
    registered_model_name: str = default("registered_model_name"),
    seed: int = default("seed"),
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
) -> NamedTuple("Outputs", [("passed", bool), ("version", str)]):  # type: ignore[valid-type]
    """Validate, score, order, tune, evaluate, register, and promote what passes the gate."""
    common = {"model_name_or_path": model_name_or_path, "seed": seed, "config": config}
    corpus = validate(
        data_train=data_train,
        data_validation=data_validation,
        data_general=data_general,
        max_rows=max_rows,
        max_length=max_length,
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
        **common,
    )
    judged = evaluate(
        model=tuned.outputs["model"],
        dataset=scored.outputs["scored"],
        max_length=max_length,
        max_general_loss_rise=max_general_loss_rise,
        **common,
    )
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
    outputs = NamedTuple("Outputs", [("passed", bool), ("version", str)])
    return outputs(passed=judged.outputs["Output"], version=registered.outputs["Output"])
