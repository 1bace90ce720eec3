"""What a model thinks of each target token, without gradient and without the full logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ytrainer_core.objectives.projection import Projection, chunk_size, chunks


@dataclass(frozen=True)
class TokenSignals:
    """What the model thinks of each target token, all [tokens], float32 (nats).

    top_token: [tokens], int64, the token the model expected instead.
    """

    nll: Tensor
    entropy: Tensor
    top_token: Tensor


@torch.no_grad()
def linear_token_signals(
    projection: Projection, labels: Tensor, *, chunk_tokens: int = 0
) -> TokenSignals:
    """Loss, entropy and the expected token at every target, in chunks.

    projection: hidden states and head of n tokens; labels: [n], all of them targets.
    """
    chunk = chunk_size(projection.vocab_size, chunk_tokens)
    projection = projection.for_chunks()
    buffer = projection.buffer(chunk)
    spare = torch.empty_like(buffer)
    nll = torch.empty(projection.tokens, dtype=torch.float32, device=buffer.device)
    entropy, top_token = torch.empty_like(nll), torch.empty_like(nll, dtype=torch.int64)
    for part in chunks(projection.tokens, chunk):
        logits = projection.logits(part, buffer)
        peak, top_token[part] = logits.max(dim=-1)
        at_target = logits.gather(1, labels[part, None]).squeeze(1)
        logits.sub_(peak[:, None])
        likely = torch.exp(logits, out=spare[: len(logits)])
        mass = likely.sum(dim=-1)
        nll[part] = mass.log() + peak - at_target
        entropy[part] = mass.log() - logits.mul_(likely).sum(dim=-1) / mass
    return TokenSignals(nll, entropy, top_token)


@torch.no_grad()
def linear_token_nll(projection: Projection, labels: Tensor, *, chunk_tokens: int = 0) -> Tensor:
    """Loss [n] in nats alone: one buffer and two passes over it fewer than the signals."""
    chunk = chunk_size(projection.vocab_size, chunk_tokens)
    projection = projection.for_chunks()
    buffer = projection.buffer(chunk)
    nll = torch.empty(projection.tokens, dtype=torch.float32, device=buffer.device)
    for part in chunks(projection.tokens, chunk):
        logits = projection.logits(part, buffer)
        at_target = logits.gather(1, labels[part, None])
        peak = logits.amax(dim=-1, keepdim=True)
        mass = logits.sub_(peak).exp_().sum(dim=-1, keepdim=True)
        nll[part] = (mass.log() + peak - at_target).squeeze(1)
    return nll
