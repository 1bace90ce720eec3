"""One forward pass over a corpus: loss, entropy and the expected token at every target.

Rows are batched by length under a token budget and padded on the right, which
causal attention never looks at, so a row's numbers do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ytrainer_core.data.packing import IGNORED, split_long
from ytrainer_core.objectives.attach import causal_lm, model_signals
from ytrainer_core.progress import Progress

BATCH_TOKENS = 8192
"""Tokens per forward pass where the caller does not say; padding included."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RowSignals:
    """Signals of one row's targets, each [targets], in nats.

    positions: index of each target in input_ids. expected: the model's most likely token.
    """

    nll: Floats
    entropy: Floats
    expected: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first, padded size <= batch_tokens.

    A row longer than the budget gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()
def token_signals(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    max_length: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    title: str = "",
) -> list[RowSignals]:
    """Signals of every row, in the order of `rows`; each row has input_ids and labels.

    Rows over `max_length` tokens (0: none) are read in pieces, as in training.
    """
    was_training = model.training
    model.eval()
    device = causal_lm(model).device
    pieces = [
        (number, *piece)
        for number, row in enumerate(rows)
        for piece in split_long(
            row["input_ids"], row["labels"], max_length or len(row["input_ids"])
        )
    ]
    input_ids = [piece[1] for piece in pieces]
    all_labels = [piece[2] for piece in pieces]
    found: list[RowSignals | None] = [None] * len(pieces)
    with Progress(title or "forward pass", len(pieces)) as progress:
        for batch in length_batches([len(ids) for ids in input_ids], batch_tokens):
            width = max(len(input_ids[i]) for i in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            labels = torch.full((len(batch), width), IGNORED)
            for at, i in enumerate(batch):
                ids[at, : len(input_ids[i])] = torch.as_tensor(input_ids[i])
                labels[at, : len(input_ids[i])] = torch.as_tensor(all_labels[i])
            labels[:, 0] = IGNORED
            signals = model_signals(model, ids.to(device), labels.to(device))
            counts = (labels != IGNORED).sum(dim=1).tolist()
            nll, entropy = signals.nll.cpu().numpy(), signals.entropy.cpu().numpy()
            expected = signals.top_token.cpu().numpy()
            start = 0
            for at, (i, count) in enumerate(zip(batch, counts, strict=True)):
                part = slice(start, start + count)
                positions = (labels[at] != IGNORED).nonzero().squeeze(1).numpy()
                found[i] = RowSignals(nll[part], entropy[part], expected[part], positions)
                start += count
            progress.advance(len(batch))
    model.train(was_training)
    by_row: list[list[RowSignals]] = [[] for _ in rows]
    for (number, _, _), piece_signals in zip(pieces, found, strict=True):
        assert piece_signals is not None  # length_batches visits every piece
        by_row[number].append(piece_signals)
    return [_join(parts, max_length - 1) for parts in by_row]


def _join(parts: list[RowSignals], stride: int) -> RowSignals:
    """Signals of one row from those of its pieces, which begin `stride` tokens apart."""
    if len(parts) == 1:
        return parts[0]
    return RowSignals(
        nll=np.concatenate([part.nll for part in parts]),
        entropy=np.concatenate([part.entropy for part in parts]),
        expected=np.concatenate([part.expected for part in parts]),
        positions=np.concatenate([part.positions + at * stride for at, part in enumerate(parts)]),
    )


def mean_nll(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    max_length: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> float:
    """Mean loss in nats per target token over all rows; NaN where there is no target."""
    signals = token_signals(
        model, rows, max_length=max_length, batch_tokens=batch_tokens, title="evaluation"
    )
    losses = np.concatenate([row.nll for row in signals]) if signals else np.empty(0)
    return float(losses.mean(dtype=np.float64)) if losses.size else float("nan")
