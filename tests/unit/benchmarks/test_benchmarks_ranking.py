"""AUROC and AUPRC on rankings small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import ranking
from benchmarks.quality_case import overlap

ONCE = ranking.resamples(4, 0, seed=0)


@pytest.mark.parametrize(
    "scores, wrong, roc, precision",
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0, 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0, (1 / 3 + 2 / 4) / 2),
        ([4, 3, 2, 1], [1, 0, 1, 0], 3 / 4, (1 / 1 + 2 / 3) / 2),
        ([2, 2, 2, 2], [1, 0, 0, 0], 1 / 2, 1 / 4),  # all tied
        ([3, 2, 2, 1], [0, 1, 0, 0], (0 + 1 / 2 + 1) / 3, 1 / 3),
    ],
)
def test_the_areas_of_small_rankings(
    scores: list[int], wrong: list[int], roc: float, precision: float
) -> None:
    values, flags = np.array(scores, float), np.array(wrong, bool)
    assert ranking.auroc(values, flags, ONCE) == pytest.approx([roc])
    assert ranking.average_precision(values, flags, ONCE) == pytest.approx([precision])


def test_a_row_that_is_drawn_twice_counts_twice() -> None:
    """Rows 4 (wrong), 3 (right, twice), 2 (wrong), never the last."""
    values, flags = np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])
    drawn = np.array([[1.0, 2, 1, 0]])
    assert ranking.auroc(values, flags, drawn) == pytest.approx([2 / 4])
    assert ranking.average_precision(values, flags, drawn) == pytest.approx([(1 + 2 / 4) / 2])


def test_a_resample_without_wrong_rows_has_no_area() -> None:
    values, flags = np.array([2.0, 1]), np.array([True, False])
    assert np.isnan(ranking.auroc(values, flags, np.array([[0.0, 1]]))).all()
    assert np.isnan(ranking.average_precision(values, flags, np.array([[0.0, 1]]))).all()


def test_resamples_draw_as_many_rows_as_there_are_by_their_seed() -> None:
    drawn = ranking.resamples(7, 5, seed=3)
    assert drawn.shape == (6, 7) and drawn[0].tolist() == [1] * 7
    assert drawn.sum(axis=1).tolist() == [7] * 6
    assert (drawn == ranking.resamples(7, 5, seed=3)).all()
    assert (drawn != ranking.resamples(7, 5, seed=4)).any()


def test_an_interval_leaves_out_a_fortieth_at_each_end() -> None:
    assert ranking.interval(np.array([9.0, *range(1001)])) == pytest.approx((9, 25, 975))


def test_precision_at_k_is_the_share_of_wrong_rows_among_the_k_first() -> None:
    wrong = np.array([True, False, True, True])
    assert ranking.precision_at(np.array([4.0, 3, 2, 1]), wrong, 3) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "first, second, share",
    [
        ((0, 4), (2, 6), 2 / 6),
        ((0, 4), (0, 4), 1),
        ((0, 4), (4, 6), 0),
        ((3, 3), (3, 3), 0),
        ((0, 10), (2, 3), 1 / 10),
    ],
)
def test_overlap_is_intersection_over_union(
    first: tuple[int, int], second: tuple[int, int], share: float
) -> None:
    assert overlap(first, second) == pytest.approx(share)
