"""The losses of preference tuning as functions of log-ratios, in nats.

A row's log-ratio is r = sum over the tokens t of its answer of w_t (log pi_t - log ref_t), where
w_t is 1, or with token_weighting=nlirg the detached NLIRG weight of -log pi_t: a token that the
policy knows already, or has no hope of, moves the reward less. beta r is the implied reward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ytrainer_core.config import NlirgConfig
from ytrainer_core.objectives.nlirg import nlirg_weights


def log_ratios(logps: Tensor, reference: Tensor, mask: Tensor, weighting: str) -> Tensor:
    """r of each row: [rows]. logps, reference, mask: [rows, tokens], in nats; mask is 1 on the
    tokens of the answer and 0 elsewhere."""
    difference = (logps - reference) * mask
    if weighting == "nlirg":
        difference = difference * nlirg_weights(-logps.detach(), NlirgConfig())
    return difference.sum(-1)


def reference_point(mismatched: Tensor) -> Tensor:
    """z: the mean log-ratio of prompts with answers of other rows, at least 0, detached.

    mismatched: [rows]. An estimate of KL(policy || reference) in nats per answer.
    """
    return mismatched.mean().clamp(min=0).detach()


def kto_losses(ratios: Tensor, labels: Tensor, z: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta (r - z)) of liked rows, 1 - sigmoid(beta (z - r)) of the others: [rows].

    Source: arXiv 2402.01306, eq. 7, without the weights of the two kinds.
    """
    return 1 - torch.sigmoid(beta * torch.where(labels, ratios - z, z - ratios))


def apo_zero_losses(ratios: Tensor, labels: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta r) of liked rows, sigmoid(beta r) of the others: [rows].

    Source: arXiv 2408.06266, eq. 7, its form for rows that are no pairs.
    """
    return kto_losses(ratios, labels, ratios.new_zeros(()), beta)


def dpo_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (r of the chosen - r of the rejected)) of each pair: [pairs].

    Source: arXiv 2305.18290, eq. 7.
    """
    return -logsigmoid(beta * (chosen - rejected))
