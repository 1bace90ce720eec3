"""Focal loss: the better a token is known, the less it counts (arXiv 1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight (1 - p) ** gamma.

    Departure: the weight is detached, where the paper differentiates through it too.
    """
    unknown = -torch.expm1(-tokens.nll)  # 1 - p, without cancellation where p is near 1
    return unknown.clamp(min=0) ** config.focal.gamma  # rounding gives nll of -1e-7
