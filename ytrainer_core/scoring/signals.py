"""One forward pass over rows: loss, entropy and the expected token at every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ytrainer_core.data.packing import IGNORED
from ytrainer_core.objectives.attach import causal_lm, hidden_at, model_nll, model_signals
from ytrainer_core.objectives.evaluating import evaluating
from ytrainer_core.objectives.head import with_projection
from ytrainer_core.objectives.linear_signals import linear_top_tokens
from ytrainer_core.objectives.projection import Projection
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import OfBatch, Row, padded, pieces_of, read_pieces

BATCH_TOKENS = 8192
"""Tokens per forward pass where the caller does not say; padding included."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RowSignals:
    """Signals of one row's targets, each [targets].

    nll, entropy: nats. expected: the model's most likely token. positions: index of each target
    in input_ids. top_prob: probability of `expected`. rank: tokens that the model held for more
    likely than the target, 0 where it was the first choice. free_nll: nats, loss of the same
    targets without the prompt (store.score_rows). The last two are None where nobody asked.
    """

    nll: Floats
    entropy: Floats
    expected: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    top_prob: Floats | None = None
    rank: npt.NDArray[np.int32] | None = None
    free_nll: Floats | None = None


def token_signals(
    model: Any,
    rows: Sequence[Row],
    *,
    max_length: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    title: str = "",
    ranks: bool = False,
) -> list[RowSignals]:
    """Signals of every row, in the order of `rows`; each row has input_ids and labels.

    Rows over `max_length` tokens (0: none) are read in pieces, as in training. ranks: also the
    ranks of the targets.
    """
    with Progress(title or "forward pass", len(rows)) as progress:
        return signals_of(
            model,
            rows,
            max_length=max_length,
            batch_tokens=batch_tokens,
            ranks=ranks,
            progress=progress,
        )


def signals_of(
    model: Any,
    rows: Sequence[Row],
    *,
    max_length: int,
    batch_tokens: int,
    ranks: bool,
    progress: Progress,
) -> list[RowSignals]:
    """`token_signals` of some rows of a longer work, whose progress goes on."""
    pieces = pieces_of(rows, max_length)
    dtypes = [torch.float32, torch.float32, torch.int64, torch.float32, *[torch.int32] * ranks]
    values = read_pieces(model, pieces, batch_tokens, _signals_of_batch(ranks), dtypes, progress)
    by_row: list[list[RowSignals]] = [[] for _ in rows]
    for piece, (nll, entropy, expected, top_prob, *rank) in zip(pieces, values, strict=True):
        positions = piece.targets + piece.start
        by_row[piece.row].append(RowSignals(nll, entropy, expected, positions, top_prob, *rank))
    return [_join(parts) for parts in by_row]


def losses_of(
    model: Any,
    rows: Sequence[Row],
    *,
    max_length: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[Floats]:
    """Loss [targets] in nats alone of every row: cheaper than `signals_of`."""
    pieces = pieces_of(rows, max_length)
    values = read_pieces(model, pieces, batch_tokens, _loss_of_batch, [torch.float32], progress)
    by_row: list[list[Floats]] = [[] for _ in rows]
    for piece, (nll,) in zip(pieces, values, strict=True):
        by_row[piece.row].append(nll)
    return [np.concatenate(parts) for parts in by_row]


def mean_nll(
    model: Any,
    rows: Sequence[Row],
    *,
    max_length: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> float:
    """Mean loss in nats per target token over all rows; NaN where there is no target."""
    with Progress("evaluation", len(rows)) as progress:
        losses = losses_of(
            model, rows, max_length=max_length, batch_tokens=batch_tokens, progress=progress
        )
    joined = np.concatenate(losses) if losses else np.empty(0)
    return float(joined.mean(dtype=np.float64)) if joined.size else float("nan")


def expected_tokens(
    model: Any, row: Row, count: int = 3, max_length: int = 0
) -> list[list[tuple[int, float]]]:
    """The `count` tokens that the model held for most likely at every target of one row.

    Returns [targets][count] of (token, probability), likeliest first.
    """
    found: list[list[tuple[int, float]]] = []

    def top(projection: Projection) -> tuple[Tensor, Tensor]:
        return linear_top_tokens(projection, count)

    with torch.no_grad(), evaluating(model):
        for piece in pieces_of([row], max_length):
            if not piece.targets.size:
                continue
            inner = causal_lm(model)
            ids, _, positions = (tensor.to(inner.device) for tensor in padded([piece]))
            hidden = hidden_at(inner, positions, input_ids=ids)
            tokens, probabilities = with_projection(inner, hidden, top)
            for pair in zip(tokens.tolist(), probabilities.tolist(), strict=True):
                found.append(list(zip(*pair, strict=True)))
    return found


def without_prompt(row: Row, bos_token: int | None) -> Row:
    """The row's trained tokens alone, after its first token where that is `bos_token`."""
    input_ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    kept = labels != IGNORED
    if len(input_ids) and input_ids[0] == bos_token:
        kept[0] = True
    return {"input_ids": input_ids[kept], "labels": labels[kept]}


def _signals_of_batch(ranks: bool) -> OfBatch:
    def of_batch(*args: Any, **kwargs: Any) -> Sequence[Tensor]:
        found = model_signals(*args, ranks=ranks, **kwargs)
        columns = (found.nll, found.entropy, found.top_token, found.top_prob, found.rank)
        return [column for column in columns if column is not None]

    return of_batch


def _loss_of_batch(*args: Any, **kwargs: Any) -> Sequence[Tensor]:
    return [model_nll(*args, **kwargs)]


def _join(parts: Sequence[RowSignals]) -> RowSignals:
    """Signals of one row from those of its pieces."""
    if len(parts) == 1:
        return parts[0]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(RowSignals)
        if getattr(parts[0], field.name) is not None
    }
    return RowSignals(**joined)
