"""DFT: a token counts as much as the model already believes in it (arXiv 2508.05629)."""

from __future__ import annotations

from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight p = exp(-nll): the published reward rectification, sg(p) x nll."""
    return (-tokens.nll).exp()
