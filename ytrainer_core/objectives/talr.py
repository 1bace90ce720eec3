"""TALR: the batch's own median says which tokens are too hard (arXiv 2509.20758)."""

from __future__ import annotations

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight p ** (1 / median nll), at least `floor`.

    Departure: the paper's weights are known up to a factor; ours is 1 at p = 1, so that the
    objective's step size compares with the others'.
    """
    assert tokens.median_nll is not None  # Objective.batch_median asks for it
    temperature = tokens.median_nll.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp(-tokens.nll / temperature).clamp(min=config.talr.floor)
