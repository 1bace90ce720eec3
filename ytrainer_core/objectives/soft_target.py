"""A whole distribution as target: the base model's to stay near, or a teacher's to learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ytrainer_core.objectives.projection import Projection


@dataclass(frozen=True)
class SoftTarget:
    """KL(reference || model) x temperature^2 per token, added with a coefficient.

    projection: the reference's, over the same tokens and vocabulary. temperature softens both
    distributions; its square keeps the gradient's size (arXiv 1503.02531, section 2). The
    divergence differs from soft cross-entropy by the reference's entropy, a constant, so that
    the gradient is the same and a perfect fit reads 0.
    """

    projection: Projection
    coefficient: float
    temperature: float = 1.0

    def divergence(
        self, logits: Tensor, reference: Tensor, *, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Divergence [n] in nats, and coefficient x its gradient by the logits [n, vocab].

        logits: the model's, [n, vocab], left as they are. reference: the reference's logits,
        [n, vocab], overwritten.
        """
        log_q = torch.log_softmax(reference.div_(self.temperature), dim=-1)
        log_p = torch.log_softmax(logits / self.temperature, dim=-1)
        q = torch.exp(log_q, out=reference)
        divergence = log_q.sub_(log_p).mul_(q).sum(-1) * self.temperature**2
        if not gradient:
            return divergence, None
        return divergence, log_p.exp_().sub_(q).mul_(self.coefficient * self.temperature)
