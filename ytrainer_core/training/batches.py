"""From tokenized rows to the batches of an epoch: packs, rows of like length, or token groups.

Rows stay where they are (an Arrow file, memory-mapped); a batch is a list of pieces of
rows, five integers each, and is read when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from ytrainer_core.config import TrainConfig
from ytrainer_core.data.packing import (
    IGNORED,
    OPEN_PACKS,
    ORDERED_PACKS,
    Piece,
    best_fit_packs,
    collate_packs,
    split_points,
)
from ytrainer_core.errors import DataError
from ytrainer_core.training.token_groups import token_groups

TokenRow = Mapping[str, Any]
"""A tokenized row: input_ids and labels of equal length, and perhaps weights, one a target."""

Pack = list[dict[str, Any]]
"""Pieces of rows that share one sequence."""

_BLOCK_ROWS = 1000
"""Rows read from disk together."""

_WINDOW_BATCHES = 64
"""Batches' worth of rows that are sorted by length together; more pads less and mixes less."""

_ORDERED_WINDOW_BATCHES = 8
"""The same where the order of the rows is a curriculum, which a large window would undo."""


class Batches(Dataset[list[Pack]]):
    """What a training sees; an item is one pack, or one micro-batch that is already made up.

    Made by `build_batches`. pieces: per piece its row, [start, end) in it, and the position
    of its first target. items: per item its packs, each a list of piece numbers.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow],
        pieces: npt.NDArray[np.int64],
        items: Sequence[Sequence[Sequence[int]]],
        *,
        whole: bool,
    ) -> None:
        self._rows = _as_numpy(rows)
        self._pieces, self._items = pieces, items
        self._sizes = pieces[:, 2] - pieces[:, 1]
        self.whole = whole
        """Whether an item is a whole micro-batch, and not one of per_device_batch_size packs."""

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> list[Pack]:
        """One item; index len(self) is the empty one, with which processes come out even."""
        if index == len(self):
            return []
        return [[self._read(number) for number in pack] for pack in self._items[index]]

    def _read(self, number: int) -> dict[str, Any]:
        row_number, start, end, first = self._pieces[number].tolist()
        row = self._rows[row_number]
        labels = np.array(row["labels"][start:end])
        labels[: first - start] = IGNORED
        piece = {"input_ids": row["input_ids"][start:end], "labels": labels}
        if "weights" in row:
            piece["weights"] = row["weights"][start:end]
        return piece

    @property
    def packs(self) -> int:
        """Sequences in one epoch."""
        return sum(len(item) for item in self._items)

    @property
    def tokens(self) -> int:
        """Tokens of one epoch that go through the model, padding excluded."""
        return int(self._sizes.sum())

    def lengths(self, index: int) -> list[list[int]]:
        """Tokens of every document of an item, by pack; nothing is read from disk."""
        return [self._sizes[list(pack)].tolist() for pack in self._items[index]]

    @property
    def context_length(self) -> float:
        """Tokens of the piece that the average token stands in."""
        lengths = self._sizes.astype(float)
        return float((lengths**2).sum() / lengths.sum())


class SeededOrder(Sampler[int]):
    """Shuffled by (seed, epoch), or in the given order where the rows are a curriculum.

    multiple: an epoch is filled up to a multiple of it with the empty item, number `length`,
    so that every process has as many batches as the others and none is trained twice.
    """

    def __init__(self, length: int, *, shuffle: bool, seed: int, multiple: int = 1) -> None:
        self._length, self._shuffle, self._seed, self._epoch = length, shuffle, seed, 0
        self._fill = [length] * (-length % multiple)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch, also after a resume."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length + len(self._fill)

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter([*range(self._length), *self._fill])
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(self._length, generator=generator).tolist()
        return iter(order + self._fill)


def build_batches(
    rows: Sequence[TokenRow],
    config: TrainConfig,
    max_length: int,
    *,
    ordered: bool = True,
    seed: int = 0,
) -> Batches:
    """Make the training samples, in the order of `rows`.

    ordered: rows of like length are sought among neighbours of the given order; otherwise
    the seed shuffles the rows first. Pieces without a target (the prompt of a long row) teach
    nothing and are left out. Raises DataError where not a single token would be trained.
    """
    capacity = config.pack_length or max_length
    found: list[Piece] = []
    for number, labels in enumerate(_labels(rows)):
        targets = np.flatnonzero(labels != IGNORED)
        if config.batching == "token_groups":
            cuts = token_groups(targets, config.token_group_size)
        else:
            cuts = split_points(targets, len(labels), capacity)
        found += (Piece(number, *cut) for cut in cuts)
    if not found:
        raise DataError(
            "the corpus has no token to train: every label is masked. Look at it with "
            "`ytrainer preview CONFIG.yaml`; the usual cause is a chat template that does not "
            "mark assistant turns, or data.train_on=last_turn on rows that end with the user."
        )
    pieces = np.array(found, dtype=np.int64)
    lengths = (pieces[:, 2] - pieces[:, 1]).tolist()
    if config.batching == "length_grouped":
        items = _length_groups(lengths, config, None if ordered else seed)
        return Batches(rows, pieces, items, whole=True)
    if config.batching == "token_groups":
        packs = [[i] for i in range(len(found))]
    else:
        open_packs = ORDERED_PACKS if ordered else OPEN_PACKS
        packs = best_fit_packs(lengths, capacity, open_packs, close_oldest=ordered)
    if config.micro_batch_tokens and config.batching == "packed":
        sizes = [sum(lengths[i] for i in pack) for pack in packs]
        items = [
            [packs[i] for i in batch]
            for batch in _fill(sizes, config.micro_batch_tokens, pad=False)
        ]
        return Batches(rows, pieces, items, whole=True)
    return Batches(rows, pieces, [[pack] for pack in packs], whole=False)


def _length_groups(
    lengths: Sequence[int], config: TrainConfig, seed: int | None
) -> list[list[list[int]]]:
    """Micro-batches of rows of like length, each row a sequence of its own."""
    order = np.arange(len(lengths))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(lengths))
    budget, most = config.micro_batch_tokens, config.per_device_batch_size
    if budget:
        most = max(1, budget // max(1, int(np.mean(lengths))))
    items = []
    window = most * (_ORDERED_WINDOW_BATCHES if seed is None else _WINDOW_BATCHES)
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window].tolist(), key=lambda i: lengths[i])
        if budget:
            groups = _fill([lengths[i] for i in near], budget, pad=True)
        else:
            groups = [
                list(range(at, min(at + most, len(near)))) for at in range(0, len(near), most)
            ]
        items += [[[near[i]] for i in group] for group in groups]
    return items


def _fill(sizes: Sequence[int], budget: int, *, pad: bool) -> list[list[int]]:
    """Neighbours together while they hold at most `budget` tokens, padded to the longest or not.

    One that is larger than the budget is alone.
    """
    groups: list[list[int]] = []
    total = longest = 0
    for number, size in enumerate(sizes):
        longest = max(longest, size)
        count = len(groups[-1]) + 1 if groups else 1
        total += size
        if not groups or (longest * count if pad else total) > budget:
            groups.append([])
            total = longest = size
        groups[-1].append(number)
    return groups


def count_targets(rows: Sequence[TokenRow]) -> int:
    """Labels of all rows that are trained."""
    return sum(int(np.count_nonzero(labels != IGNORED)) for labels in _labels(rows))


def _labels(rows: Sequence[TokenRow]) -> Iterator[npt.NDArray[np.int64]]:
    """The labels of every row, read in blocks where the rows lie in a file."""
    rows = _as_numpy(rows)
    for start in range(0, len(rows), _BLOCK_ROWS):
        if hasattr(rows, "with_format"):
            yield from rows[start : start + _BLOCK_ROWS]["labels"]  # type: ignore[call-overload]
        else:
            for i in range(start, min(start + _BLOCK_ROWS, len(rows))):
                yield np.asarray(rows[i]["labels"])


def _as_numpy(rows: Any) -> Any:
    """Rows whose columns are arrays; a list of rows is taken as it is."""
    if not hasattr(rows, "with_format"):
        return rows
    wanted = [name for name in ("input_ids", "labels", "weights") if name in rows.column_names]
    return rows.with_format("numpy", columns=wanted)


class BatchCollator:
    """Items of `Batches` -> tensors; padding comes from the tokenizer.

    flat: all documents in one sequence without padding, for attention that is told where
    each begins; otherwise one padded sequence a pack.
    """

    def __init__(self, pad_token_id: int, *, flat: bool) -> None:
        self._pad_token_id, self._flat = pad_token_id, flat

    def __call__(self, items: Sequence[Sequence[Pack]]) -> dict[str, Any]:
        packs = [pack for item in items for pack in item]
        if not packs:  # as many forward passes as the other processes, but nothing to learn
            ids = [self._pad_token_id] * 2
            nothing = {"input_ids": ids, "labels": [IGNORED] * 2, "weights": [1.0] * 2}
            return self._collate([[nothing]]) | {"real_tokens": 0}
        return self._collate(packs)

    def _collate(self, packs: list[Pack]) -> dict[str, Any]:
        if self._flat:
            packs = [[piece for pack in packs for piece in pack]]
        return collate_packs(packs, self._pad_token_id, documents=self._flat)
