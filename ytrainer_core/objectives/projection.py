"""What the logits are: hidden states times matrices, summed, shifted and capped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Size of the float32 logits of one chunk where the config does not say."""


def chunk_size(vocab_size: int, chunk_tokens: int = 0) -> int:
    """Tokens per chunk: as configured, or as many as CHUNK_BYTES of logits hold."""
    return chunk_tokens or max(16, CHUNK_BYTES // (4 * vocab_size))


@dataclass(frozen=True)
class Projection:
    """From hidden states to logits z = sum of hidden_i x matrix_i^T + bias; cap x tanh(z / cap).

    pairs: (hidden_i [tokens, width_i], matrix_i [vocab, width_i]); one for a plain head, one
    more for each adapter on it. bias: [vocab]. softcap: cap in logits, 0 for none. A factor on
    the logits is a factor on hidden states and bias (`scaled`).
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None = None
    softcap: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.pairs[0][0].shape[0]

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""
        return self.pairs[0][1].shape[0]

    def scaled(self, factor: float) -> Projection:
        """The same with every logit times `factor`, before the cap."""
        if factor == 1.0:
            return self
        pairs = tuple((hidden * factor, matrix) for hidden, matrix in self.pairs)
        return replace(self, pairs=pairs, bias=None if self.bias is None else self.bias * factor)

    def for_chunks(self) -> Projection:
        """Detached, each matrix in its hidden states' dtype, converted once for all chunks."""
        pairs = tuple((h.detach(), m.detach().to(h.dtype)) for h, m in self.pairs)
        bias = None if self.bias is None else self.bias.detach().float()
        return replace(self, pairs=pairs, bias=bias)

    def buffer(self, chunk: int) -> Tensor:
        """Room for the float32 logits of one chunk: taken once, used by all."""
        hidden = self.pairs[0][0]
        size = (min(chunk, self.tokens), self.vocab_size)
        return torch.empty(size, dtype=torch.float32, device=hidden.device)

    def logits(self, part: slice, buffer: Tensor) -> Tensor:
        """Float32 logits [n, vocab] of the tokens of `part`, in `buffer`.

        Call on what `for_chunks` gives. The products run in the hidden states' dtype.
        """
        (hidden, matrix), *others = self.pairs
        rows = hidden[part]
        logits = buffer[: rows.shape[0]]
        if rows.dtype == torch.float32:
            torch.mm(rows, matrix.T, out=logits)
        else:
            logits.copy_(rows @ matrix.T)
        for hidden, matrix in others:
            rows = hidden[part]
            if rows.dtype == torch.float32:
                logits.addmm_(rows, matrix.T)
            else:
                logits += rows @ matrix.T
        if self.bias is not None:
            logits += self.bias
        if self.softcap:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def cap_slope(self, logits: Tensor) -> Tensor:
        """Derivative of the cap, 1 - (capped / cap)^2, at capped logits [n, vocab]."""
        return (logits / self.softcap).square_().neg_().add_(1)


def chunks(tokens: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` tokens that cover all of them."""
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))
