"""From tokenized rows to the batches of an epoch: packs or token groups, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ytrainer_core.config import TrainConfig
from ytrainer_core.data.packing import IGNORED, best_fit_packs, collate_packs, split_long
from ytrainer_core.errors import DataError
from ytrainer_core.training.token_groups import token_groups

TokenRow = Mapping[str, Any]
"""A tokenized row: input_ids and labels of equal length."""

Pack = list[dict[str, Any]]


class Packs(Dataset[Pack]):
    """Packs of rows; each item is the list of rows that share one sequence."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._packs = packs

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index: int) -> Pack:
        return self._packs[index]


class SeededOrder(Sampler[int]):
    """Shuffled by (seed, epoch), or in the given order where the rows are a curriculum."""

    def __init__(self, length: int, *, shuffle: bool, seed: int) -> None:
        self._length, self._shuffle, self._seed, self._epoch = length, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch, also after a resume."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._length))
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(self._length, generator=generator).tolist()
        return iter(order)


def build_packs(rows: Sequence[TokenRow], config: TrainConfig, max_length: int) -> Packs:
    """Make the training samples, in the order of `rows`.

    Pieces without a target (the prompt of a long row) teach nothing and are left out.
    Raises DataError where not a single token would be trained.
    """
    if config.batching == "token_groups":
        packs: list[Pack] = [
            [{"input_ids": input_ids, "labels": labels}]
            for row in rows
            for input_ids, labels in token_groups(
                row["input_ids"], row["labels"], config.token_group_size
            )
        ]
    else:
        capacity = config.pack_length or max_length
        pieces: Pack = [
            {"input_ids": input_ids, "labels": labels}
            for row in rows
            for input_ids, labels in split_long(row["input_ids"], row["labels"], capacity)
            if any(label != IGNORED for label in labels[1:])
        ]
        lengths = [len(piece["input_ids"]) for piece in pieces]
        packs = [[pieces[i] for i in pack] for pack in best_fit_packs(lengths, capacity)]
    if not packs:
        raise DataError(
            "the corpus has no token to train: every label is masked. Look at it with "
            "`ytrainer preview CONFIG.yaml`; the usual cause is a chat template that does not "
            "mark assistant turns, or data.train_on=last_turn on rows that end with the user."
        )
    return Packs(packs)


class PackCollator:
    """Batch of packs -> tensors; padding comes from the tokenizer."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
        return collate_packs(packs, self._pad_token_id)
