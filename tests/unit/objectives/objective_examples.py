"""What the fused op must equal: logits, weights and losses by plain autograd, all at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES, Tokens


def plain_logits(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None = None,
    *,
    low: Tensor | None = None,
    up: Tensor | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> Tensor:
    """[tokens, vocab], differentiable; low [tokens, rank] x up [vocab, rank] is an adapter's."""
    logits = hidden @ head.T
    if low is not None and up is not None:
        logits = logits + low @ up.T
    if bias is not None:
        logits = logits + bias
    logits = logits * scale
    return cap * torch.tanh(logits / cap) if cap else logits


@dataclass
class PlainLoss:
    loss: Tensor
    nll: Tensor
    weights: Tensor
    divergence: Tensor | None


def plain_loss(
    logits: Tensor,
    labels: Tensor,
    config: ObjectiveConfig,
    *,
    given: Tensor | None = None,
    median_nll: Tensor | None = None,
    reference: Tensor | None = None,
    token_coefficient: float = 1.0,
    coefficient: float = 0.0,
    temperature: float = 1.0,
) -> PlainLoss:
    """The objective's sum over the tokens of full logits [tokens, vocab], by autograd."""
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    top = logits.detach().topk(min(config.eaft.top_tokens, logits.shape[-1])).values
    entropy = torch.distributions.Categorical(logits=top).entropy()
    median = nll.detach().median() if median_nll is None else median_nll
    weights = OBJECTIVES[config.name].weigh(Tokens(nll.detach(), entropy, median), config)
    if given is not None:
        weights = weights * given
    loss, divergence = token_coefficient * (weights * nll).sum(), None
    if reference is not None:
        q = torch.distributions.Categorical(logits=reference / temperature)
        p = torch.distributions.Categorical(logits=logits / temperature)
        divergence = torch.distributions.kl_divergence(q, p) * temperature**2
        loss = loss + coefficient * divergence.sum()
    return PlainLoss(loss, nll.detach(), weights, divergence)
