"""Rows through a model: cut to what is read, batched by length, results back in their order.

Rows are padded on the right, which causal attention never looks at, so a row's numbers do not
depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ytrainer_core.data.packing import IGNORED, split_long
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.objectives.evaluating import evaluating
from ytrainer_core.progress import Progress

CPU_BATCH_TOKENS = 1024
"""Tokens per forward pass on a CPU at most: of larger batches the hidden states leave its caches.
A body of 2.65 M parameters took 95 us of a core a token so, and 155 us at 8,192."""

Row = Mapping[str, Any]
"""input_ids and labels of one row, [tokens] each."""

OfBatch = Callable[..., Sequence[Tensor]]
"""of_batch(model, input_ids, labels, target_positions=) -> signals, each [targets]."""


class Piece(NamedTuple):
    """What is read of a row at once: up to its last target, as nothing reads the rest.

    row: its number. start: index in the row of the piece's first token. input_ids, labels:
    [tokens]; targets: [n], indices into them.
    """

    row: int
    start: int
    input_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


def pieces_of(rows: Sequence[Row], max_length: int) -> list[Piece]:
    """The pieces of every row, as `split_long` cuts those over `max_length` tokens (0: none)."""
    pieces = []
    for number, row in enumerate(rows):
        whole: Any = np.asarray(row["input_ids"], np.int64)
        trained: Any = np.asarray(row["labels"], np.int64)
        parts = split_long(whole, trained, max_length or len(whole))
        for at, (input_ids, labels) in enumerate(parts):
            targets = np.flatnonzero(np.asarray(labels[1:]) != IGNORED) + 1
            end = int(targets[-1]) + 1 if targets.size else 0
            ids, read = np.asarray(input_ids[:end]), np.asarray(labels[:end])
            pieces.append(Piece(number, at * (max_length - 1), ids, read, targets))
    return pieces


def padded(pieces: Sequence[Piece]) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, labels, positions that predict a target) of a batch, as model_signals() reads.

    [batch, seq], [batch, seq], [targets]; each target's position is that of the token before it.
    """
    width = max(len(piece.input_ids) for piece in pieces)
    input_ids = np.zeros((len(pieces), width), np.int64)
    labels = np.full_like(input_ids, IGNORED)
    for at, piece in enumerate(pieces):
        input_ids[at, : len(piece.input_ids)] = piece.input_ids
        labels[at, : len(piece.labels)] = piece.labels
    positions = [at * width + piece.targets - 1 for at, piece in enumerate(pieces)]
    return (
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        torch.from_numpy(np.concatenate(positions)),
    )


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
def read_pieces(
    model: Any,
    pieces: Sequence[Piece],
    batch_tokens: int,
    of_batch: OfBatch,
    dtypes: Sequence[torch.dtype],
    progress: Progress | None,
) -> list[tuple[npt.NDArray[Any], ...]]:
    """What of_batch gives for each piece, in arrays of these dtypes.

    It stays on the device until all is read: the host never waits between two batches, and no
    small tensor is left in the heap between the large ones of two batches.
    """
    device = causal_lm(model).device
    if device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
    read = [i for i, piece in enumerate(pieces) if piece.targets.size]
    columns = [
        torch.empty(sum(pieces[i].targets.size for i in read), dtype=dtype, device=device)
        for dtype in dtypes
    ]
    places = [slice(0, 0)] * len(pieces)
    uncounted = {piece.row for piece in pieces}
    end = 0
    with evaluating(model):
        for batch in length_batches([len(pieces[i].input_ids) for i in read], batch_tokens):
            chosen = [read[i] for i in batch]
            tensors = padded([pieces[i] for i in chosen])
            input_ids, labels, positions = (_moved(tensor, device) for tensor in tensors)
            found = of_batch(model, input_ids, labels, target_positions=positions)
            for column, values in zip(columns, found, strict=True):
                column[end : end + len(values)] = values
            for i in chosen:
                places[i] = slice(end, end + pieces[i].targets.size)
                end = places[i].stop
            if progress is not None:
                counted = uncounted & {pieces[i].row for i in chosen}
                progress.advance(len(counted))
                uncounted -= counted
    if progress is not None:
        progress.advance(len(uncounted))  # rows without a target
    arrays = [column.cpu().numpy() for column in columns]
    return [tuple(array[place] for array in arrays) for place in places]


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU fetches it by itself, while the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
