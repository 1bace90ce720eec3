"""Intervals hold the value as often as they say, and chance alone makes no difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.evaluation.intervals import (
    Difference,
    Estimate,
    RowValues,
    difference,
    estimate,
    row_means,
)

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
PAIRS = st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=30)


def values(sums: list[float], counts: list[float]) -> RowValues:
    return RowValues(np.array(sums), np.array(counts))


def test_a_metric_is_the_sum_over_all_rows_by_the_count_over_all_rows() -> None:
    """Not the mean of the rows' means: 9 / 4, where these have (6 + 1) / 2."""
    assert values([6.0, 3.0], [1.0, 3.0]).value == 2.25
    assert row_means([1, 0, 0, 1]).value == 0.5


def test_the_interval_goes_to_the_values_that_cut_off_as_much_on_either_side() -> None:
    """Two rows, 0 and 1: resamples have mean 0, 1/2, 1 with chance 1/4, 1/2, 1/4."""
    two = row_means([0, 1])
    assert estimate(two, resamples=999, confidence=0.95) == Estimate(0.5, 0.0, 1.0, 2)
    assert estimate(two, resamples=999, confidence=0.4) == Estimate(0.5, 0.5, 0.5, 2)


def test_rows_are_drawn_with_their_counts() -> None:
    """Resamples are the first row twice, 5 / 1, the second twice, 1 / 3, or both, 6 / 4."""
    found = estimate(values([5.0, 1.0], [1.0, 3.0]), confidence=0.95)
    assert found == Estimate(1.5, pytest.approx(1 / 3), 5.0, 2)


def test_one_row_has_no_width() -> None:
    assert estimate(values([3.0], [2.0])) == Estimate(1.5, 1.5, 1.5, 1)


def test_a_wider_confidence_gives_a_wider_interval_and_more_rows_a_narrower_one() -> None:
    rows = np.random.default_rng(0).normal(size=400)
    narrow, wide = (estimate(row_means(rows), confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    few = estimate(row_means(rows[:40]))
    many = estimate(row_means(rows))
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    """Of 200 samples of 60 rows, skewed and of unequal counts, 95 % should hold it."""
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        counts = random.integers(1, 20, size=60).astype(float)
        sums = counts * random.exponential(2.0, size=60)
        found = estimate(RowValues(sums, counts), resamples=300, seed=seed)
        held += found.low <= 2.0 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_a_difference_that_is_there_is_found_although_each_models_interval_is_wide() -> None:
    """Paired: rows differ by 1 and more, models by 0.1 on every row."""
    random = np.random.default_rng(2)
    first = random.normal(size=100)
    second = first - 0.1 + random.normal(scale=0.05, size=100)
    found = difference(row_means(first), row_means(second))
    assert found.low > 0.08 and found.high < 0.12
    assert found.p_value == 1 / 1001  # none of 1000 exchanges, and the observed one itself
    assert estimate(row_means(first)).low < row_means(second).value


def test_without_a_difference_the_p_value_is_below_5_percent_in_5_percent_of_samples() -> None:
    random = np.random.default_rng(3)
    p_values = [
        difference(
            row_means(random.normal(size=25)),
            row_means(random.normal(size=25)),
            resamples=199,
            seed=seed,
        ).p_value
        for seed in range(300)
    ]
    assert 0.02 <= np.mean([p <= 0.05 for p in p_values]) <= 0.08
    assert 0.4 <= np.mean([p <= 0.5 for p in p_values]) <= 0.6


def test_few_rows_go_through_every_exchange() -> None:
    """4 rows, all better by 1: of 16 exchanges, two have a difference of 1 or more."""
    found = difference(row_means([1, 2, 3, 4]), row_means([0, 1, 2, 3]))
    assert found == Difference(1.0, 1.0, 1.0, 2 / 16, 4)
    # Differences 1, 1, -1: means are 1/3 or more in all exchanges, so chance explains it fully.
    assert difference(row_means([1, 2, 2]), row_means([0, 1, 3])).p_value == 1.0


def test_a_relative_difference_is_a_share_of_the_second() -> None:
    """Losses of 2.2 over 2: 10 % more. Its p-value is that of the same exchanges."""
    first, second = values([4.4, 6.6], [2.0, 3.0]), values([4.0, 6.0], [2.0, 3.0])
    found = difference(first, second, relative=True)
    assert (found.value, found.low, found.high) == (pytest.approx(0.1),) * 3
    assert found.p_value == difference(first, second).p_value == 0.5


def test_a_relative_difference_of_zeros_is_zero() -> None:
    zeros, one = row_means([0, 0]), row_means([0, 1])
    assert difference(zeros, zeros, relative=True) == Difference(0.0, 0.0, 0.0, 1.0, 2)
    assert difference(one, zeros, relative=True).value == math.inf


def test_rows_that_count_differently_in_two_models_are_exchanged_with_their_counts() -> None:
    """4/1 against 2/2 and 3/3 against 6/3: the exchange of row 0 alone gives 5/5 against 10/4."""
    first, second = values([4.0, 3.0], [1.0, 3.0]), values([2.0, 6.0], [2.0, 3.0])
    found = difference(first, second, resamples=4)
    assert found.value == pytest.approx(7 / 4 - 8 / 5)
    # 0.15, -1.5, 1.5, -0.15: all are at least as large.
    assert found.p_value == 1.0
    larger = difference(values([2.0, 3.0], [2.0, 3.0]), values([4.0, 6.0], [1.0, 3.0]))
    assert larger.value == pytest.approx(5 / 5 - 10 / 4) and larger.p_value == 0.5


@given(PAIRS, st.integers(0, 9), st.booleans())
def test_a_model_does_not_differ_from_itself(
    pairs: list[tuple[float, float]], seed: int, relative: bool
) -> None:
    same = RowValues(np.array([p[0] for p in pairs]), np.ones(len(pairs)))
    copy = RowValues(same.sums.copy(), same.counts.copy())
    found = difference(same, copy, resamples=50, seed=seed, relative=relative)
    assert found == Difference(0.0, 0.0, 0.0, 1.0, len(pairs))


@given(PAIRS)
def test_the_other_way_round_a_difference_has_the_other_sign_and_the_same_p(
    pairs: list[tuple[float, float]],
) -> None:
    first, second = row_means([p[0] for p in pairs]), row_means([p[1] for p in pairs])
    there = difference(first, second, resamples=39)
    back = difference(second, first, resamples=39)
    assert back.value == -there.value
    assert back.p_value == there.p_value
    assert 0 < there.p_value <= 1


@given(PAIRS)
def test_an_interval_lies_within_what_rows_have(pairs: list[tuple[float, float]]) -> None:
    rows = [p[0] for p in pairs]
    found = estimate(row_means(rows), resamples=50)
    slack = 1e-9 * max(map(abs, rows))
    assert min(rows) - slack <= found.low <= found.high <= max(rows) + slack


def test_the_same_seed_draws_the_same_rows_for_every_metric() -> None:
    rows = np.random.default_rng(4).normal(size=50)
    one, double = (estimate(row_means(rows * f), seed=5) for f in (1, 2))
    assert (double.low, double.high) == (pytest.approx(2 * one.low), pytest.approx(2 * one.high))
    assert estimate(row_means(rows), seed=6).low != one.low


def test_what_is_held_in_memory_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    first, second = row_means(random.normal(size=40)), row_means(random.normal(size=40))
    whole = difference(first, second, resamples=100)
    monkeypatch.setattr("ytrainer_core.evaluation.intervals._DRAWS_AT_ONCE", 300)
    assert difference(first, second, resamples=100) == whole


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_value_that_is_not_finite_stays_so(broken: float) -> None:
    """The gate says what it means."""
    rows = row_means([1.0, broken, 2.0])
    found = estimate(rows)
    assert not any(map(math.isfinite, (found.value, found.low, found.high)))
    apart = difference(rows, row_means([1.0, 1.0, 1.0]))
    assert not math.isfinite(apart.value) and math.isnan(apart.p_value)


def test_a_resample_that_counts_nothing_is_left_out() -> None:
    """Rows without targets: of two rows one counts nothing, and so does every fourth resample."""
    assert estimate(values([0.0, 3.0], [0.0, 2.0])) == Estimate(1.5, 1.5, 1.5, 2)


@pytest.mark.parametrize("rows", [row_means([]), values([0.0, 0.0], [0.0, 0.0])])
def test_nothing_measured_is_an_error(rows: RowValues) -> None:
    with pytest.raises(ValueError, match="no rows"):
        estimate(rows)
    with pytest.raises(ValueError, match="no rows"):
        difference(rows, rows)


def test_rows_that_are_not_those_of_the_other_model_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 rows cannot be paired with 2"):
        difference(row_means([1, 2, 3]), row_means([1, 2]))
