"""NLIRG: full weight for what can be learned now, little for the known and the hopeless."""

from __future__ import annotations

import torch
from torch import Tensor

from ytrainer_core.config import NlirgConfig, ObjectiveConfig

_EPSILON = torch.finfo(torch.float32).eps
"""Added inside both arms, as published, so that no token inside the cutoff weighs nothing."""


def nlirg_weights(nll: Tensor, config: NlirgConfig) -> Tensor:
    """Weight each token by how learnable its loss looks.

    nll: any shape, nats, detached. Returns the same shape: 0.5 at
    `config.easy_midpoint`, rising to `arm_boundary`, then falling to 0 at `cutoff`.
    Raises ValueError where nll holds NaN.
    Source: the published NLIRG curve. Departure: `easy_floor: zero` shifts the easy
    arm to 0 at nll 0, (w - w(0)) / (1 - w(0)).
    """
    if torch.isnan(nll).any():
        raise ValueError("nll holds NaN: the model's logits are not finite")
    easy = torch.sigmoid(config.easy_slope * (nll - config.easy_midpoint))
    if config.easy_floor == "zero":
        floor = torch.sigmoid(nll.new_tensor(-config.easy_slope * config.easy_midpoint))
        easy = ((easy - floor) / (1 - floor)).clamp(min=0)  # rounding gives nll of -1e-7
    else:
        easy = easy + _EPSILON
    hard = torch.sigmoid(config.hard_slope * (config.hard_midpoint - nll)) + _EPSILON
    hard = hard.clamp(min=config.hard_floor)
    weights = torch.where(nll <= config.arm_boundary, easy, hard)
    return torch.where(nll < config.cutoff, weights, torch.zeros_like(weights))


def weigh(nll: Tensor, config: ObjectiveConfig) -> Tensor:
    """NLIRG as an entry of OBJECTIVES."""
    return nlirg_weights(nll, config.nlirg)
