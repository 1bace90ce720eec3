"""NLIRG: full weight for what can be learned now, little for the known and the hopeless."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ytrainer_core.config import NlirgConfig, ObjectiveConfig
from ytrainer_core.objectives.base import Tokens

_EPSILON = torch.finfo(torch.float32).eps
"""Added inside both arms, as published, so that no token inside the cutoff weighs nothing."""


def nlirg_weights(nll: Tensor, config: NlirgConfig) -> Tensor:
    """Weight each token by how learnable its loss looks.

    nll: any shape, nats, detached. Returns the same shape: 0.5 at
    `config.easy_midpoint`, rising to `arm_boundary`, then falling to 0 at `cutoff`.
    NaN weighs 0, and 0 x NaN is a loss of NaN: whoever steps on it checks that the loss is
    finite, once, because a check here would make the device wait at every chunk.
    Source: the published NLIRG curve. Departure: `easy_floor: zero` shifts the easy
    arm to 0 at nll 0, (w - w(0)) / (1 - w(0)).
    """
    easy = torch.sigmoid(config.easy_slope * (nll - config.easy_midpoint))
    if config.easy_floor == "zero":
        known = math.exp(-config.easy_slope * config.easy_midpoint)
        floor = known / (1 + known)  # sigmoid at nll 0
        easy = ((easy - floor) / (1 - floor)).clamp(min=0)  # rounding gives nll of -1e-7
    else:
        easy = easy + _EPSILON
    hard = torch.sigmoid(config.hard_slope * (config.hard_midpoint - nll)) + _EPSILON
    hard = hard.clamp(min=config.hard_floor)
    weights = torch.where(nll <= config.arm_boundary, easy, hard)
    return torch.where(nll < config.cutoff, weights, torch.zeros_like(weights))


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """NLIRG as an entry of OBJECTIVES."""
    return nlirg_weights(tokens.nll, config.nlirg)
