"""Rows dealt into folds, so that each can be read by a model that was tuned on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from ytrainer_core.scoring.signals import RowSignals
from ytrainer_core.scoring.store import SignalTable


def dealt(rows: int, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """[rows]: the fold of each, drawn; the folds' sizes differ by one at most."""
    return np.random.default_rng(seed).permutation(rows) % folds


class FoldedSignals(Sequence[RowSignals]):
    """Signals of all rows in their order, from the tables of the folds they were dealt into.

    fold_of: [rows]; tables: one a fold, its rows in the order of the corpus.
    """

    def __init__(self, fold_of: npt.NDArray[np.int64], tables: Sequence[SignalTable]) -> None:
        self._fold_of, self._tables = fold_of, tables
        self._place = np.empty_like(fold_of)
        for fold, table in enumerate(tables):
            self._place[fold_of == fold] = np.arange(len(table))

    def __len__(self) -> int:
        return len(self._fold_of)

    @overload
    def __getitem__(self, index: int) -> RowSignals: ...
    @overload
    def __getitem__(self, index: slice) -> list[RowSignals]: ...
    def __getitem__(self, index: int | slice) -> RowSignals | list[RowSignals]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        table = self._tables[int(self._fold_of[index])]
        return table[int(self._place[index])]

    def __iter__(self) -> Iterator[RowSignals]:
        tables = [iter(table) for table in self._tables]
        for fold in self._fold_of:
            yield next(tables[fold])
