"""Packs: several rows in one sequence, each blind to the others.

Best fit: a row goes where it leaves the least room. For a curriculum only the newest
packs are open, so that a row comes at most that many packs before its turn. Isolation
comes from position_ids that restart at every row.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""Label of a position that is not trained, as the field has it."""

OPEN_PACKS = 64
"""Packs open at a time; more fills them better and keeps the order less."""

ORDERED_PACKS = 16
"""Packs open at a time where the order of the rows is a curriculum."""


def best_fit_packs(
    lengths: Sequence[int],
    capacity: int,
    open_packs: int = OPEN_PACKS,
    *,
    close_oldest: bool = False,
) -> list[list[int]]:
    """Pack row numbers so that each pack holds at most `capacity` tokens.

    lengths: tokens of each row, in training order. Returns packs of row numbers,
    ordered by their first row. Where one pack too many is open the fullest is closed, which
    wastes least, or the oldest, so that no row comes more than `open_packs` packs early.
    Raises ValueError for a row longer than a pack.
    """
    packs: list[list[int]] = []
    open_: list[tuple[int, int]] = []  # (room left, pack), sorted: the first that fits, fits best
    for row, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"row {row} has {length} tokens, more than a pack of {capacity}")
        at = bisect.bisect_left(open_, (length, -1))
        if at < len(open_):
            room, pack = open_.pop(at)
            packs[pack].append(row)
        else:
            room, pack = capacity, len(packs)
            packs.append([row])
            if len(open_) == open_packs:
                open_.remove(min(open_, key=lambda one: one[1]) if close_oldest else open_[0])
        bisect.insort(open_, (room - length, pack))
    return packs


def split_long(
    input_ids: Sequence[int], labels: Sequence[int], capacity: int
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Cut a document into pieces of at most `capacity` tokens; nothing is thrown away.

    A later piece begins with the last token of the one before, so that every token
    but the document's first is a target exactly once.
    """
    if len(input_ids) <= capacity:
        return [(input_ids, labels)]
    pieces: list[tuple[Sequence[int], Sequence[int]]] = []
    for start in range(0, len(input_ids) - 1, capacity - 1):
        part = slice(start, start + capacity)
        pieces.append((input_ids[part], [IGNORED, *labels[part][1:]]))
    return pieces


class Piece(NamedTuple):
    """Tokens [start, end) of a row; its targets begin at position `first` of the row."""

    row: int
    start: int
    end: int
    first: int


def split_points(
    targets: npt.NDArray[np.int64], length: int, capacity: int
) -> Iterator[tuple[int, int, int]]:
    """`split_long` as (start, end, first target) of the pieces that have a target.

    targets: positions of the row's targets; length: tokens of the row.
    """
    starts = [0] if length <= capacity else range(0, length - 1, capacity - 1)
    for start in starts:
        end = min(start + capacity, length)
        inside = targets[(targets > start) & (targets < end)]
        if len(inside):
            yield start, end, int(inside[0])


def collate_packs(
    packs: Sequence[Sequence[Mapping[str, Any]]], pad_token_id: int, *, documents: bool = False
) -> dict[str, Any]:
    """Tensors of a batch of packs: input_ids, labels, position_ids, each [batch, seq].

    packs: per pack its pieces, each with input_ids, labels and perhaps weights (then also
    token_weights [batch, seq], 1 where a piece has none). Padding is a document of its own
    at the end and is never a target. target_positions [targets]: where, in the flattened
    batch, the token before each target stands, so that no device has to be asked.
    real_tokens: tokens without padding, a number.
    documents: also where each document begins (cu_seq_lens, as flash attention names them);
    the batch must then be one sequence.
    """
    import torch

    width = max(sum(len(piece["input_ids"]) for piece in pack) for pack in packs)
    input_ids = np.full((len(packs), width), pad_token_id, dtype=np.int64)
    labels = np.full((len(packs), width), IGNORED, dtype=np.int64)
    position_ids = np.zeros((len(packs), width), dtype=np.int64)
    weights = np.ones((len(packs), width), dtype=np.float32)
    for i, pack in enumerate(packs):
        start = 0
        for piece in pack:
            end = start + len(piece["input_ids"])
            input_ids[i, start:end] = piece["input_ids"]
            labels[i, start:end] = piece["labels"]
            labels[i, start] = IGNORED  # a document's first token has nothing before it
            position_ids[i, start:end] = np.arange(end - start)
            weights[i, start:end] = piece.get("weights", 1)
            start = end
        position_ids[i, start:] = np.arange(width - start)
    batch: dict[str, Any] = {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
        "target_positions": torch.from_numpy(np.flatnonzero(labels.ravel() != IGNORED) - 1),
    }
    batch["real_tokens"] = sum(len(piece["input_ids"]) for pack in packs for piece in pack)
    if any("weights" in piece for pack in packs for piece in pack):
        batch["token_weights"] = torch.from_numpy(weights)
    return batch | (_document_bounds(packs) if documents else {})


def _document_bounds(packs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """cu_seq_lens and longest document of one sequence, in the words of flash attention."""
    import torch

    assert len(packs) == 1, "documents of several sequences have no common bounds"
    lengths = [len(piece["input_ids"]) for piece in packs[0]]
    bounds = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = max(lengths)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
