"""A corpus goes in, a report on its rows comes out; nothing is trained."""

from components.order import order
from components.score import score
from components.validate import validate
from pipelines.definition import Steps


def score_only(steps: Steps) -> None:
    """Validate and score a corpus, and show in which order it would be trained."""
    corpus = steps.add(validate)
    scored = steps.add(score, dataset=corpus.outputs["dataset"])
    steps.add(order, dataset=scored.outputs["scored"], scores=scored.outputs["scores"])
