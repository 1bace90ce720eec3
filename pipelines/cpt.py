"""Text of a domain goes in, a judged and registered model that has read it comes out.

`ytrainer pipeline run finetune` goes on from it with model.init_from=models:/NAME@champion.
"""

from components.cpt import cpt as train
from pipelines.chain import Outputs, corpus_to_champion
from pipelines.definition import Steps


def cpt(steps: Steps) -> Outputs:
    """Train on raw text, and promote the result where it passes the gate."""
    return corpus_to_champion(steps, train)
