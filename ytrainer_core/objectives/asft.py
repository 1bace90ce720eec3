"""ASFT: DFT's weight with an anchor to the base model's distribution (arXiv 2509.23753).

The anchor, `kl_coefficient` x KL(base || model) per target, is not a weight and is
formed by the fused op (soft_target).
"""

from __future__ import annotations

from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight p = exp(-nll)."""
    return (-tokens.nll).exp()
