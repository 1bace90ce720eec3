"""EAFT: a token counts where the model is undecided (arXiv 2601.02151)."""

from __future__ import annotations

from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight (entropy of the `top_tokens` most likely tokens / `entropy_scale`) ** `power`."""
    assert tokens.top_entropy is not None  # Objective.top_entropy asks for it
    # rounding gives a certain token an entropy of -1e-8, which has no root
    share = tokens.top_entropy.clamp(min=0) / config.eaft.entropy_scale
    return share**config.eaft.power
