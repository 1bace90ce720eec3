"""What a model thinks of each target token, without gradient and without the full logits.

On a CPU the logits come in tiles of tokens x vocabulary that stay in its caches: beside the
product's 4.5 ns a logit (192 wide, one core) the passes over a tile took 1.6, and 3.9 where they
went over rows of 151,936 in memory. Tiles of a token are joined by the chain rule of entropy:
H = sum over tiles of share x (H of the tile - ln share). A GPU has the bandwidth and takes the
whole vocabulary at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ytrainer_core.objectives.projection import Projection, chunks

CPU_TILE_BYTES = 2 * 2**20
"""Size of a tile's float32 logits on a CPU; two buffers of that size are held."""

CPU_TILE_TOKENS = 1024
"""Tokens of a tile on a CPU: the head is read once for that many."""

GPU_TILE_BYTES = 256 * 2**20
"""Size of a tile's float32 logits on a GPU: enough tokens that the product is worth its launch."""

_BLOCK = 64
"""Neighbours of which the greatest is sought first: torch's own argmax of a row takes ten times
as long as its maximum on a CPU."""


@dataclass(frozen=True)
class TokenSignals:
    """What the model thinks of each target token, all [tokens].

    nll, entropy: float32, nats. top_token: int64, the token the model expected instead.
    top_prob: float32, its probability. rank: int32, tokens with a greater logit than the target,
    0 where it was the first choice; None where nobody asked. Two logits that differ by no more
    than rounding may count either way.
    """

    nll: Tensor
    entropy: Tensor
    top_token: Tensor
    top_prob: Tensor
    rank: Tensor | None = None


@torch.no_grad()
def linear_token_signals(
    projection: Projection, labels: Tensor, *, chunk_tokens: int = 0, ranks: bool = False
) -> TokenSignals:
    """Loss, entropy and the expected token at every target, in tiles.

    projection: hidden states and head of n tokens; labels: [n], all of them targets.
    chunk_tokens: tokens of a tile, 0 for what suits the device. ranks: also the target's rank,
    one more pass over the logits.
    """
    tiles = _Tiles.of(projection, chunk_tokens)
    nll = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
    entropy, top_prob = torch.empty_like(nll), torch.empty_like(nll)
    top_token = torch.empty_like(labels)
    rank = torch.zeros_like(labels, dtype=torch.int32) if ranks else None
    for part in chunks(projection.tokens, tiles.tokens):
        targets, found = labels[part], []
        threshold = tiles.threshold(part, targets) if ranks else None
        for tile in tiles.across(part):
            at_target, inside = tile.at(targets)
            if rank is not None:
                rank[part] += tile.above(at_target, inside, threshold)
            found.append((at_target, *tile.signals()))
        at_target, log_mass, inner, peak, top = map(torch.stack, zip(*found, strict=True))
        whole = log_mass.logsumexp(dim=0)
        log_share = log_mass - whole
        best = peak.argmax(dim=0, keepdim=True)
        nll[part] = whole - at_target.sum(dim=0)
        entropy[part] = (log_share.exp() * (inner - log_share)).sum(dim=0)
        top_token[part] = top.gather(0, best)[0]
        top_prob[part] = (peak.gather(0, best)[0] - whole).exp()
    return TokenSignals(nll, entropy, top_token, top_prob, rank)


@torch.no_grad()
def linear_token_nll(projection: Projection, labels: Tensor, *, chunk_tokens: int = 0) -> Tensor:
    """Loss [n] in nats alone: fewer passes over the logits than the signals take."""
    tiles = _Tiles.of(projection, chunk_tokens)
    nll = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
    for part in chunks(projection.tokens, tiles.tokens):
        found = [(tile.at(labels[part])[0], tile.log_mass()) for tile in tiles.across(part)]
        at_target, log_mass = map(torch.stack, zip(*found, strict=True))
        nll[part] = log_mass.logsumexp(dim=0) - at_target.sum(dim=0)
    return nll


@torch.no_grad()
def linear_top_tokens(projection: Projection, count: int) -> tuple[Tensor, Tensor]:
    """(the `count` most likely tokens, their probabilities), each [n, count], likeliest first."""
    tiles = _Tiles.of(projection, 0)
    count = min(count, projection.vocab_size)
    device = projection.pairs[0][0].device
    tokens = torch.empty((projection.tokens, count), dtype=torch.int64, device=device)
    probabilities = torch.empty_like(tokens, dtype=torch.float32)
    for part in chunks(projection.tokens, tiles.tokens):
        found = []
        for tile in tiles.across(part):
            logits, places = tile.logits.topk(min(count, tile.logits.shape[1]), dim=-1)
            found.append((logits, places + tile.first, tile.log_mass()[:, None]))
        logits, candidates, log_mass = (torch.cat(f, dim=1) for f in zip(*found, strict=True))
        best = logits.topk(count, dim=-1)
        tokens[part] = candidates.gather(1, best.indices)
        probabilities[part] = (best.values - log_mass.logsumexp(dim=1, keepdim=True)).exp()
    return tokens, probabilities


@dataclass(frozen=True)
class _Tile:
    """Logits [n, width] of the vocabulary from `first` on, and a spare buffer of that size."""

    logits: Tensor
    spare: Tensor
    first: int

    def at(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(logit of the target, 0 where it lies in another tile; whether it lies here), [n]."""
        place = targets - self.first
        inside = (place >= 0) & (place < self.logits.shape[1])
        logit = self.logits.gather(1, place.where(inside, 0)[:, None]).squeeze(1)
        return logit.where(inside, 0.0), inside

    def above(self, at_target: Tensor, inside: Tensor, threshold: Tensor | None) -> Tensor:
        """Number [n] of other tokens here with a greater logit than the target."""
        if threshold is None:
            threshold = at_target
        greater = torch.gt(self.logits, threshold[:, None], out=self.spare).sum(dim=-1)
        return (greater - (inside & (at_target > threshold)).float()).int()

    def log_mass(self) -> Tensor:
        """ln of the sum of the exponentials, [n]."""
        peak = self.logits.amax(dim=-1)
        return peak - torch.softmax(self.logits, dim=-1, out=self.spare).amax(dim=-1).log()

    def signals(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(ln of the mass, entropy within the tile, greatest logit, its token), each [n].

        The logits are overwritten.
        """
        peak, top = _greatest(self.logits)
        self.logits.sub_(peak[:, None])
        inner = torch.softmax(self.logits, dim=-1, out=self.spare)
        log_mass = -inner.amax(dim=-1).log()
        mean = torch.mul(self.logits, inner, out=self.logits).sum(dim=-1)
        return peak + log_mass, log_mass - mean, peak, top + self.first


def _greatest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(greatest, index of the first that is as great) of each row of [n, width]."""
    if logits.device.type != "cpu" or logits.shape[1] % _BLOCK:
        peak, top = logits.max(dim=-1)
        return peak, top
    blocks = logits.view(len(logits), -1, _BLOCK)
    peak, block = blocks.amax(dim=-1).max(dim=-1)
    inside = blocks[torch.arange(len(block)), block].argmax(dim=-1)
    return peak, block * _BLOCK + inside


@dataclass(frozen=True)
class _Tiles:
    """How the logits of a projection are cut: `tokens` x `width`, in two buffers."""

    projection: Projection
    tokens: int
    width: int
    buffers: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, projection: Projection, chunk_tokens: int) -> _Tiles:
        """Tiles for the projection's device, of `chunk_tokens` tokens unless that is 0."""
        projection, vocabulary = projection.for_chunks(), projection.vocab_size
        device = projection.pairs[0][0].device
        if device.type == "cpu":
            tokens = min(projection.tokens, chunk_tokens or CPU_TILE_TOKENS)
            width = CPU_TILE_BYTES // (4 * _BLOCK * max(1, tokens)) * _BLOCK
            width = min(vocabulary, max(_BLOCK, width))
        else:
            tokens = chunk_tokens or max(16, GPU_TILE_BYTES // (4 * vocabulary))
            tokens, width = min(projection.tokens, tokens), vocabulary
        flat = torch.empty((2, tokens * width), dtype=torch.float32, device=device)
        return cls(projection, max(1, tokens), width, (flat[0], flat[1]))

    def across(self, part: slice) -> Iterator[_Tile]:
        """The tiles of the tokens of `part`; each is gone when the next one comes."""
        rows = part.stop - part.start
        for columns in chunks(self.projection.vocab_size, self.width):
            width = columns.stop - columns.start
            logits, spare = (b[: rows * width].view(rows, width) for b in self.buffers)
            self._of_columns(columns).logits(part, logits)
            yield _Tile(logits, spare, columns.start)

    def _of_columns(self, columns: slice) -> Projection:
        bias = self.projection.bias
        pairs = tuple((hidden, matrix[columns]) for hidden, matrix in self.projection.pairs)
        return replace(self.projection, pairs=pairs, bias=None if bias is None else bias[columns])

    def threshold(self, part: slice, targets: Tensor) -> Tensor | None:
        """Logits [n] of the targets before the tile comes that they lie in; None if all do."""
        if self.width >= self.projection.vocab_size:
            return None
        logits = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        for hidden, matrix in self.projection.pairs:
            products = hidden[part].float() * matrix.index_select(0, targets).float()
            logits += products.sum(dim=-1).to(hidden.dtype)
        if self.projection.bias is not None:
            logits += self.projection.bias.index_select(0, targets)
        cap = self.projection.softcap
        return cap * torch.tanh(logits / cap) if cap else logits
