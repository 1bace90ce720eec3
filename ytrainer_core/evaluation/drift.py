"""How far a tuned model's token distributions moved away from its base's.

The two need not be in memory together: of the base the likeliest tokens are kept at every target,
and what the tuned model thinks of the same tokens is read later. All other tokens count as one
outcome. Joining outcomes can only bring two distributions closer (the data-processing inequality,
Cover and Thomas 2006, §2.8), so the divergence is a lower bound, and exact where every token is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ytrainer_core.data.packing import IGNORED
from ytrainer_core.evaluation.intervals import RowValues
from ytrainer_core.objectives.attach import causal_lm, hidden_at
from ytrainer_core.objectives.evaluating import evaluating
from ytrainer_core.objectives.head import vocab_size, with_projection
from ytrainer_core.objectives.projection import Projection, chunk_size, chunks
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import (
    CPU_BATCH_TOKENS,
    Piece,
    Row,
    length_batches,
    padded,
    pieces_of,
)

KEPT_TOKENS = 256
"""Tokens of the base's distribution that are kept at a target."""

MOST_TARGETS = 256
"""Targets of a row that are compared, the first ones: so a row takes 512 KiB at most."""

_LEAST_REST = 1e-6
"""Probability that the tokens not kept have at least: float32 knows no less of one minus a sum."""

_OfLogits = Callable[[Tensor, slice], tuple[Tensor, ...]]
"""of_logits(logits [n, vocab], which of the batch's targets) -> tensors, each [n, ...]."""


@dataclass(frozen=True)
class Summaries:
    """A model's distributions at the targets of some rows, likeliest tokens first.

    ids: int32 [targets, kept]. logprobs: float32 [targets, kept], nats. rest: float32 [targets],
    probability of all other tokens; 0 where every token is kept. counts: int64 [rows], targets of
    each row.
    """

    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]


def distribution_summary(
    model: Any,
    rows: Sequence[Row],
    *,
    top: int = KEPT_TOKENS,
    max_length: int = 0,
    batch_tokens: int = 8192,
) -> Summaries:
    """What `drift` needs of the base: its `top` likeliest tokens at the targets of every row.

    rows: input_ids and labels, read in pieces of at most max_length tokens (0: whole), each up to
    its target number MOST_TARGETS. Raises ConfigError for a head that is not linear.
    """
    pieces, counts = _read_of(rows, max_length)
    vocabulary = vocab_size(causal_lm(model))
    ids = np.zeros((counts.sum(), min(top, vocabulary)), np.int32)
    logprobs = np.zeros(ids.shape, np.float32)

    def likeliest(logits: Tensor, _: slice) -> tuple[Tensor, ...]:
        found = logits.topk(ids.shape[1], dim=-1)
        return found.indices, found.values - _log_mass(logits, found.values[:, :1])

    with Progress("token distributions", len(rows)) as progress:
        for batch in _batches(pieces, batch_tokens, model):
            tokens, values = _read(model, batch, likeliest)
            ids[batch.targets], logprobs[batch.targets] = tokens.numpy(), values.numpy()
            progress.advance(batch.rows)
    rest = _rest(torch.from_numpy(logprobs)).numpy() * (ids.shape[1] < vocabulary)
    return Summaries(ids, logprobs, rest.astype(np.float32), counts)


def drift(
    base: Summaries,
    model: Any,
    rows: Sequence[Row],
    *,
    max_length: int = 0,
    batch_tokens: int = 8192,
) -> dict[str, RowValues]:
    """How far `model` is from the base that was summarized on the same rows, in the same pieces.

    kl: KL(base‖model) in nats per target, a lower bound to within 1e-5 nats. top1_agreement: share
    of targets at which the base's likeliest token is the model's too. Raises ValueError where rows
    or vocabulary are not those of the base.
    """
    pieces, counts = _read_of(rows, max_length)
    if not np.array_equal(counts, base.counts):
        raise ValueError("the base was summarized on other rows")
    if base.ids.size and base.ids.max() >= vocab_size(causal_lm(model)):
        raise ValueError("the base knows tokens that the model does not")
    divergence, agrees = np.zeros(counts.sum()), np.zeros(counts.sum())
    with Progress("drift from the base", len(rows)) as progress:
        for batch in _batches(pieces, batch_tokens, model):
            known = _Known.of(base, batch.targets, causal_lm(model).device)
            kl, same = _read(model, batch, known.compared)
            divergence[batch.targets], agrees[batch.targets] = kl.numpy(), same.numpy()
            progress.advance(batch.rows)
    return {
        "kl": _by_row(divergence, counts),
        "top1_agreement": _by_row(agrees, counts),
    }


@dataclass(frozen=True)
class _Known:
    """The base's summary at the targets of one batch, on the model's device."""

    ids: Tensor
    logprobs: Tensor
    rest: Tensor

    @classmethod
    def of(cls, base: Summaries, targets: npt.NDArray[np.int64], device: torch.device) -> _Known:
        arrays = (base.ids[targets].astype(np.int64), base.logprobs[targets], base.rest[targets])
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def compared(self, logits: Tensor, part: slice) -> tuple[Tensor, ...]:
        """(KL(base‖model), 1 where the base's likeliest token has the greatest logit), [n]."""
        ids, logprobs, rest = self.ids[part], self.logprobs[part], self.rest[part]
        at_ids, greatest = logits.gather(1, ids), logits.amax(dim=-1, keepdim=True)
        own = at_ids - _log_mass(logits, greatest)
        kl = (logprobs.exp() * (logprobs - own)).sum(dim=-1)
        ratio = rest.clamp(min=_LEAST_REST) / _rest(own)
        kl += rest * ratio.log()
        return kl.clamp(min=0), (at_ids[:, 0] >= greatest[:, 0]).float()


def _log_mass(logits: Tensor, greatest: Tensor) -> Tensor:
    """ln of the sum of the exponentials [n, 1] of logits whose greatest, [n, 1], is known.

    The logits are overwritten: torch's own logsumexp takes three times as long on a CPU.
    """
    shares = torch.softmax(logits, dim=-1, out=logits)
    return greatest - shares.amax(dim=-1, keepdim=True).log()


def _rest(logprobs: Tensor) -> Tensor:
    """Probability [n] of the tokens that are not among `logprobs` [n, kept]."""
    return (1 - logprobs.double().exp().sum(dim=-1)).clamp(min=_LEAST_REST).float()


def _by_row(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> RowValues:
    sums = np.zeros(len(counts))
    np.add.at(sums, np.repeat(np.arange(len(counts)), counts), values)
    return RowValues(sums, counts.astype(np.float64))


# --- logits at the targets -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Pieces that are read together, and the numbers of their targets among all."""

    pieces: list[Piece]
    targets: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Rows that end in this batch."""
        return len({piece.row for piece in self.pieces if piece.start == 0})


def _read_of(rows: Sequence[Row], max_length: int) -> tuple[list[Piece], npt.NDArray[np.int64]]:
    """(the pieces with a target, targets of each row [rows]) of what is read of the rows."""
    pieces = [
        piece
        for piece in pieces_of([_first(row) for row in rows], max_length)
        if len(piece.targets)
    ]
    counts = np.zeros(len(rows), np.int64)
    for piece in pieces:
        counts[piece.row] += len(piece.targets)
    return pieces, counts


def _first(row: Row) -> Row:
    """The row up to its target number MOST_TARGETS."""
    labels = np.array(row["labels"])
    beyond = np.flatnonzero(labels[1:] != IGNORED)[MOST_TARGETS:] + 1
    labels[beyond] = IGNORED
    return {"input_ids": row["input_ids"], "labels": labels}


def _batches(pieces: Sequence[Piece], batch_tokens: int, model: Any) -> Iterator[_Batch]:
    if causal_lm(model).device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
    ends = np.cumsum([len(piece.targets) for piece in pieces])
    for batch in length_batches([len(piece.input_ids) for piece in pieces], batch_tokens):
        numbers = [np.arange(ends[i] - len(pieces[i].targets), ends[i]) for i in batch]
        yield _Batch([pieces[i] for i in batch], np.concatenate(numbers))


@torch.no_grad()
def _read(model: Any, batch: _Batch, of_logits: _OfLogits) -> list[Tensor]:
    """What of_logits gives, [targets of the batch, ...] on the host; never all logits at once."""
    inner = causal_lm(model)

    def read(projection: Projection) -> tuple[Tensor, ...]:
        projection = projection.for_chunks()
        size = chunk_size(projection.vocab_size)
        buffer = projection.buffer(size)
        found = [
            of_logits(projection.logits(part, buffer), part)
            for part in chunks(projection.tokens, size)
        ]
        return tuple(torch.cat(columns) for columns in zip(*found, strict=True))

    with evaluating(model):
        input_ids, _, positions = (tensor.to(inner.device) for tensor in padded(batch.pieces))
        hidden = hidden_at(inner, positions, input_ids=input_ids)
        return [column.cpu() for column in with_projection(inner, hidden, read)]
