"""Plain cross-entropy: every target token counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight 1 for every token."""
    return torch.ones_like(tokens.nll)
