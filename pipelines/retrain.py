"""A changed corpus goes in, a successor of the champion comes out, if it is no worse.

The steps are those of finetune. What differs is where they begin: training goes on from the
champion (init_from, which `ytrainer trigger` sets), and rows that it was trained on are replayed.
"""

from components.sft import sft
from pipelines.chain import Outputs, corpus_to_champion
from pipelines.definition import Steps


def retrain(steps: Steps) -> Outputs:
    """Train on from an earlier version, and promote the result where it falls behind nothing."""
    return corpus_to_champion(steps, sft)
