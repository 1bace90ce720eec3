"""Liked and disliked answers go in; a judged, registered model that learned from them comes out."""

from components.kto import kto as tune
from components.validate import validate
from pipelines.chain import Outputs, champion_of
from pipelines.definition import Steps


def kto(steps: Steps) -> Outputs:
    """Validate, tune towards liked answers, evaluate, register, and promote what passes."""
    dataset = steps.add(validate).outputs["dataset"]
    tuned = steps.add(tune, dataset=dataset)
    return champion_of(steps, tuned.outputs["model"], dataset)
