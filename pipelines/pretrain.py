"""Text goes in, a small model from scratch comes out, registered as a base to tune."""

from typing import NamedTuple

from components.pretrain import pretrain as train
from components.register import register
from components.validate import validate
from pipelines.definition import Steps

Outputs = NamedTuple("Outputs", [("version", str)])


def pretrain(steps: Steps) -> Outputs:
    """Learn a tokenizer and a model from text, and register it; no gate judges a first model."""
    corpus = steps.add(validate, model_name_or_path="")
    trained = steps.add(train, dataset=corpus.outputs["dataset"])
    registered = steps.add(register, model=trained.outputs["model"], model_name_or_path="")
    return Outputs(version=registered.outputs["Output"])
