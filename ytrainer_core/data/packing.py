"""Packs: several rows in one sequence, each blind to the others.

Best fit: a row goes where it leaves the least room. Rows keep roughly their
order, because only a window of packs is open at a time, so that a curriculum
survives packing. Isolation comes from position_ids that restart at every row.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

IGNORED = -100
"""Label of a position that is not trained, as the field has it."""

OPEN_PACKS = 64
"""Packs open at a time; more fills them better and keeps the order less."""


def best_fit_packs(
    lengths: Sequence[int], capacity: int, open_packs: int = OPEN_PACKS
) -> list[list[int]]:
    """Pack row numbers so that each pack holds at most `capacity` tokens.

    lengths: tokens of each row, in training order. Returns packs of row numbers,
    ordered by their first row. Raises ValueError for a row longer than a pack.
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
                open_.pop(0)  # the fullest pack is closed
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


def collate_packs(packs: Sequence[Sequence[dict[str, Any]]], pad_token_id: int) -> dict[str, Any]:
    """Tensors of a batch of packs: input_ids, labels, position_ids, each [batch, seq].

    packs: per pack its rows, each with input_ids and labels. Padding is a document of
    its own at the end and is never a target.
    """
    import torch

    width = max(sum(len(row["input_ids"]) for row in pack) for pack in packs)
    input_ids = torch.full((len(packs), width), pad_token_id)
    labels = torch.full((len(packs), width), IGNORED)
    position_ids = torch.zeros((len(packs), width), dtype=torch.long)
    for i, pack in enumerate(packs):
        start = 0
        for row in pack:
            end = start + len(row["input_ids"])
            input_ids[i, start:end] = torch.as_tensor(row["input_ids"])
            labels[i, start:end] = torch.as_tensor(row["labels"])
            labels[i, start] = IGNORED  # a document's first token has nothing before it
            position_ids[i, start:end] = torch.arange(end - start)
            start = end
        position_ids[i, start:] = torch.arange(width - start)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
