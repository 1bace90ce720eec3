"""Rows dealt into folds."""

from __future__ import annotations

import numpy as np
import pytest

from ytrainer_core.scoring.folds import dealt


@pytest.mark.parametrize("rows, folds", [(7, 3), (100, 4), (2, 2)])
def test_rows_are_dealt_evenly_and_by_the_seed(rows: int, folds: int) -> None:
    fold_of = dealt(rows, folds, seed=1)
    sizes = np.bincount(fold_of, minlength=folds)
    assert sizes.sum() == rows and sizes.max() - sizes.min() <= 1
    assert (fold_of == dealt(rows, folds, seed=1)).all()
    assert rows < 10 or (fold_of != dealt(rows, folds, seed=2)).any()
