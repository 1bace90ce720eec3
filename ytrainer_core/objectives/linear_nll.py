"""From hidden states to the weighted token loss without ever holding the full logits.

The logits of a few hundred tokens exist at a time: [chunk, vocab] instead of
[tokens, vocab]. Because an objective weights a token by its detached loss, the
gradient w x (softmax - onehot) is known in the forward pass and formed there.
The matrix products run in the model's dtype, the reductions in float32.

The plain case passes over a chunk of logits as seldom as it can: greatest logit,
subtract, exp, sum, scale; all in one buffer that every chunk uses again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ytrainer_core.objectives.base import Tokens
from ytrainer_core.objectives.projection import Projection, chunk_size, chunks
from ytrainer_core.objectives.soft_target import SoftTarget

__all__ = ["TokenLoss", "chunk_size", "linear_token_loss"]


@dataclass(frozen=True)
class TokenLoss:
    """What the objective made of a batch.

    loss: scalar, differentiable: token_coefficient x sum of weight x nll, plus the soft
    target's coefficient x sum of divergence. The others: [tokens], float32, detached; entropy
    and divergence only where they were asked for.
    """

    loss: Tensor
    nll: Tensor
    weights: Tensor
    entropy: Tensor | None = None
    divergence: Tensor | None = None


@dataclass(frozen=True)
class _Request:
    """What the op is asked for, besides the tensors that may get a gradient."""

    labels: Tensor
    weigh: Callable[[Tokens], Tensor]
    softcap: float
    chunk: int
    top_tokens: int
    median_nll: Tensor | None
    given: Tensor | None
    entropy: bool
    soft: SoftTarget | None
    token_coefficient: float
    gradient: bool


def linear_token_loss(
    projection: Projection,
    labels: Tensor,
    weigh: Callable[[Tokens], Tensor],
    *,
    chunk_tokens: int = 0,
    top_tokens: int = 0,
    median_nll: Tensor | None = None,
    given: Tensor | None = None,
    entropy: bool = False,
    soft: SoftTarget | None = None,
    token_coefficient: float = 1.0,
) -> TokenLoss:
    """Weighted sum of token losses, in chunks, with the gradient formed on the way.

    projection: hidden states and head of n tokens; labels: [n], all of them targets (drop
    ignored positions before). weigh: Tokens of a chunk -> weights; top_tokens > 0 fills their
    top_entropy, median_nll (scalar) and given [n] are passed on. Gradients are formed only
    where they are required, and serve one backward: a second one raises RuntimeError.
    """
    request = _Request(
        labels,
        weigh,
        projection.softcap,
        chunk_size(projection.vocab_size, chunk_tokens),
        top_tokens,
        median_nll,
        given,
        entropy,
        soft,
        token_coefficient,
        torch.is_grad_enabled(),
    )
    flat = [tensor for pair in projection.pairs for tensor in pair]
    return TokenLoss(*_TokenLoss.apply(request, projection.bias, *flat))  # type: ignore[no-untyped-call]


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, request: _Request, bias: Tensor | None, *flat: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
        needed = [n and request.gradient for n in ctx.needs_input_grad[1:]]
        gradients = _Gradients((bias, *flat), needed) if any(needed) else None
        found = _walk(Projection(pairs, bias, request.softcap).for_chunks(), request, gradients)
        loss = (found.nll * found.weights).sum() * request.token_coefficient
        if request.soft is not None and found.divergence is not None:
            loss = loss + found.divergence.sum() * request.soft.coefficient
        ctx.gradients = gradients
        outputs = (found.nll, found.weights, found.entropy, found.divergence)
        ctx.mark_non_differentiable(*(tensor for tensor in outputs if tensor is not None))
        return (loss, *outputs)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if ctx.gradients is None:
            raise RuntimeError("the gradient was formed in the forward pass and is used up")
        formed, ctx.gradients = ctx.gradients, None  # a head's gradient is large: scale in place
        return None, *formed.scaled(grads[0])


@dataclass
class _Found:
    """Per token, [tokens], as TokenLoss has it."""

    nll: Tensor
    weights: Tensor
    entropy: Tensor | None
    divergence: Tensor | None


def _walk(projection: Projection, request: _Request, gradients: _Gradients | None) -> _Found:
    """Go over the chunks: loss, weight, and what they add to the gradients."""
    empty = torch.empty(
        projection.tokens, dtype=torch.float32, device=projection.pairs[0][0].device
    )
    soft = request.soft
    found = _Found(
        nll=empty,
        weights=torch.empty_like(empty),
        entropy=torch.empty_like(empty) if request.entropy else None,
        divergence=None if soft is None else torch.empty_like(empty),
    )
    buffer = projection.buffer(request.chunk)
    reference = None if soft is None else soft.projection.for_chunks()
    spare = torch.empty_like(buffer) if request.entropy or reference else buffer
    for part in chunks(projection.tokens, request.chunk):
        targets = request.labels[part, None]
        logits = projection.logits(part, buffer)
        top_entropy = _top_entropy(logits, request.top_tokens) if request.top_tokens else None
        cap_slope = projection.cap_slope(logits) if gradients and projection.softcap else None
        soft_grad = None
        if soft is not None and reference is not None and found.divergence is not None:
            found.divergence[part], soft_grad = soft.divergence(
                logits, reference.logits(part, spare), gradient=gradients is not None
            )
        at_target = logits.gather(1, targets)
        peak = logits.amax(dim=-1, keepdim=True)
        logits.sub_(peak)
        # exp(z - peak); where the entropy still needs z - peak, in a buffer of its own
        likely = torch.exp(logits, out=spare[: len(logits)] if request.entropy else logits)
        mass = likely.sum(dim=-1, keepdim=True)
        nll = (mass.log() + peak - at_target).squeeze(1)
        if found.entropy is not None:  # log Z - sum of p x z
            expected = logits.mul_(likely).sum(dim=-1, keepdim=True) / mass
            found.entropy[part] = (mass.log() - expected).squeeze(1)
        given = None if request.given is None else request.given[part]
        weights = request.weigh(Tokens(nll, top_entropy, request.median_nll, given))
        found.nll[part], found.weights[part] = nll, weights
        if gradients is None:
            continue
        share = weights[:, None] * request.token_coefficient
        grad = likely.mul_(share / mass)
        grad.scatter_add_(1, targets, -share)
        if soft_grad is not None:
            grad += soft_grad
        if cap_slope is not None:
            grad *= cap_slope
        gradients.add(part, grad, projection)
    return found


def _top_entropy(logits: Tensor, count: int) -> Tensor:
    """Entropy [n] in nats of the `count` most likely tokens, renormalised; logits [n, vocab]."""
    log_p = logits.topk(min(count, logits.shape[-1]), dim=-1).values.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


class _Gradients:
    """Gradients of (bias, hidden_1, matrix_1, ...), filled chunk by chunk where needed."""

    def __init__(self, inputs: tuple[Tensor | None, ...], needed: list[bool]) -> None:
        self._dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        self._sums: list[Tensor | None] = [None] * len(inputs)
        for i, tensor in enumerate(inputs):
            if tensor is None or not needed[i]:
                continue
            if i % 2:  # hidden states: every chunk writes its own rows
                self._sums[i] = torch.empty_like(tensor)
            else:  # float32: summed over all chunks of a batch, and fp16 would lose the small ones
                self._sums[i] = torch.zeros_like(tensor, dtype=torch.float32)

    def add(self, part: slice, grad: Tensor, projection: Projection) -> None:
        """Add what grad [n, vocab], of the logits of `part`, gives each input."""
        if (bias := self._sums[0]) is not None:
            bias += grad.sum(0)
        low = grad
        for i, (hidden, matrix) in enumerate(projection.pairs):
            of_hidden, of_matrix = self._sums[2 * i + 1], self._sums[2 * i + 2]
            if of_hidden is None and of_matrix is None:
                continue
            if low.dtype != hidden.dtype:
                low = grad.to(hidden.dtype)
            if of_hidden is not None:
                torch.mm(low, matrix, out=of_hidden[part])
            if of_matrix is None:
                continue
            if low.dtype == torch.float32:
                of_matrix.addmm_(low.T, hidden[part])
            else:
                of_matrix += low.T @ hidden[part]

    def scaled(self, factor: Tensor) -> list[Tensor | None]:
        """The gradients times `factor` (scalar), each in its input's dtype."""
        return [
            None if total is None else total.mul_(factor).to(dtype)
            for total, dtype in zip(self._sums, self._dtypes, strict=True)
        ]
