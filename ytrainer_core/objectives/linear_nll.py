"""From hidden states to the weighted token loss without ever holding the full logits.

The logits of a few hundred tokens exist at a time: [chunk, vocab] instead of
[tokens, vocab]. Because an objective weights a token by its detached loss, the
gradient w * (softmax - onehot) is known in the forward pass and formed there.
The matrix products run in the model's dtype, the reductions in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Size of the float32 logits of one chunk where the config does not say."""


@dataclass(frozen=True)
class TokenLoss:
    """What the objective made of a batch.

    loss: scalar, sum of weight x nll over the tokens, differentiable.
    nll, weights: [tokens], float32, detached.
    """

    loss: Tensor
    nll: Tensor
    weights: Tensor


@dataclass(frozen=True)
class TokenSignals:
    """What the model thinks of each target token, all [tokens], float32 (nats).

    top_token: [tokens], int64, the token the model expected instead.
    """

    nll: Tensor
    entropy: Tensor
    top_token: Tensor


def chunk_size(vocab_size: int, chunk_tokens: int = 0) -> int:
    """Tokens per chunk: as configured, or as many as CHUNK_BYTES of logits hold."""
    return chunk_tokens or max(16, CHUNK_BYTES // (4 * vocab_size))


def linear_token_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    weigh: Callable[[Tensor], Tensor],
    *,
    bias: Tensor | None = None,
    chunk_tokens: int = 0,
) -> TokenLoss:
    """Weighted sum of token losses, in chunks, with the gradient formed on the way.

    hidden: [tokens, width]; head: [vocab, width]; bias: [vocab]; labels: [tokens], all
    of them targets (drop ignored positions before). weigh: detached nll [n] -> weights [n].
    The gradient of head and bias is formed only where they require it.
    """
    loss, nll, weights = _WeightedNll.apply(  # type: ignore[no-untyped-call]
        hidden, head, bias, labels, weigh, chunk_size(head.shape[0], chunk_tokens)
    )
    return TokenLoss(loss, nll, weights)


class _WeightedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        weigh: Callable[[Tensor], Tensor],
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need_hidden, need_head, need_bias = ctx.needs_input_grad[:3]
        need_bias = need_bias and bias is not None
        matrix = head.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # float32: summed over all chunks of a batch, and fp16 would lose the small ones
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head else None
        grad_bias = torch.zeros_like(head[:, 0], dtype=torch.float32) if need_bias else None
        none = hidden.new_empty(0, dtype=torch.float32)  # a micro-batch may have no target
        nlls, weightss = [none], [none]
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            rows, targets = hidden[part], labels[part, None]
            logits = (rows @ matrix.T).float()
            if bias is not None:
                logits += bias.float()
            log_z = logits.logsumexp(dim=-1, keepdim=True)
            nll = (log_z - logits.gather(1, targets)).squeeze(1)
            weights = weigh(nll)
            nlls.append(nll)
            weightss.append(weights)
            if not (need_hidden or need_head or need_bias):
                continue
            grad = logits.sub_(log_z).exp_().mul_(weights[:, None])
            grad.scatter_add_(1, targets, -weights[:, None])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, matrix, out=grad_hidden[part])
            if grad_head is not None:
                if grad.dtype == torch.float32:
                    grad_head.addmm_(grad.T, rows)
                else:
                    grad_head += grad.T @ rows
        nll, weights = torch.cat(nlls), torch.cat(weightss)
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nll, weights)
        return (nll * weights).sum(), nll, weights

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        def scaled(grad: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
            return None if grad is None else (grad * grads[0]).to(dtype or grad.dtype)

        hidden, head, bias = ctx.saved_tensors
        return scaled(hidden), scaled(head, ctx.head_dtype), scaled(bias), None, None, None


@torch.no_grad()
def linear_token_signals(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    chunk_tokens: int = 0,
) -> TokenSignals:
    """Loss, entropy and the expected token at every target, in chunks, without gradient.

    Shapes as in linear_token_loss.
    """
    chunk = chunk_size(head.shape[0], chunk_tokens)
    matrix = head.to(hidden.dtype)
    nlls, entropies, tops = [], [], []
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        logits = (hidden[part] @ matrix.T).float()
        if bias is not None:
            logits += bias.float()
        tops.append(logits.argmax(dim=-1))
        log_p = torch.log_softmax(logits, dim=-1)
        nlls.append(-log_p.gather(1, labels[part, None]).squeeze(1))
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1))
    if not nlls:
        empty = hidden.new_empty(0, dtype=torch.float32)
        return TokenSignals(empty, empty, labels.new_empty(0))
    return TokenSignals(torch.cat(nlls), torch.cat(entropies), torch.cat(tops))
