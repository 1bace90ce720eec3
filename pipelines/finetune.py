"""The main job: a corpus goes in, a judged and registered model comes out."""

from components.sft import sft
from pipelines.chain import Outputs, corpus_to_champion
from pipelines.definition import Steps


def finetune(steps: Steps) -> Outputs:
    """Validate, score, order, tune, evaluate, register, and promote what passes the gate."""
    return corpus_to_champion(steps, sft)
