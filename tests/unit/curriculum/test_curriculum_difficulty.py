"""Each difficulty on values computed by hand, and where none is defined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.difficulty import DIFFICULTIES, difficulties
from ytrainer_core.curriculum.signals import SignalBatch

NAN, INF = math.nan, math.inf


def batch(nll: list[list[float]], entropy: list[list[float]]) -> SignalBatch:
    flat = [np.array([value for row in rows for value in row], float) for rows in (nll, entropy)]
    return SignalBatch(*flat, counts=np.array([len(row) for row in nll]))


def rate(nll: list[list[float]], entropy: list[list[float]], **config: Any) -> list[float]:
    alone = np.arange(len(nll))
    return difficulties([batch(nll, entropy)], alone, OrderConfig(**config), seed=0).tolist()


@pytest.mark.parametrize(
    "nll, entropy, difficulty",
    [
        ([0, 1, 2], [0, 2, 4], -1.0),  # unsure exactly where it is wrong: easy
        ([0, 1, 2], [4, 2, 0], 1.0),  # sure where it is wrong: hard
        ([1, -1, 1, -1], [1, 1, 0, 0], 0.0),
        ([0, 1, 2], [0, 0, 3], -0.8660),  # (1 + 0 + 2) / (sqrt 2 x sqrt 6)
        ([1, 3, 5, 11], [2, 2, 3, 1], 0.5669),  # deviations -4 -2 0 6 and 0 0 1 -1: 6 / sqrt 112
    ],
)
def test_similarity_is_minus_the_cosine_of_the_z_scores(
    nll: list[float], entropy: list[float], difficulty: float
) -> None:
    assert rate([nll], [entropy], mode="similarity") == [pytest.approx(difficulty, abs=1e-4)]


def test_filtered_counts_tokens_of_high_loss_half_where_the_model_is_unsure() -> None:
    """Loss 4 at entropy 0.5: 1; 4 at 1.5: 0.5; 5 at 1.0: 1; losses 2 and 3 are not high."""
    nll, entropy = [4.0, 4.0, 2.0, 5.0, 3.0], [0.5, 1.5, 0.1, 1.0, 0.1]
    assert rate([nll], [entropy], mode="filtered") == [2.5]
    assert rate([nll], [entropy], mode="filtered", filtered_min_nll=4.5) == [1.0]
    assert rate([nll], [entropy], mode="filtered", filtered_entropy_split=2.0) == [3.0]


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("mean_loss", [2.0, 5.0]),
        ("entropy", [0.5, 1.0]),
        ("length", [2.0, 1.0]),
        ("none", [0.0, 1.0]),
        ("file", [0.0, 1.0]),
    ],
)
def test_the_plain_modes(mode: str, expected: list[float]) -> None:
    assert rate([[1.0, 3.0], [5.0]], [[0.0, 1.0], [1.0]], mode=mode) == expected


@pytest.mark.parametrize("mode", DIFFICULTIES)
def test_a_row_is_rated_alike_alone_and_between_others(mode: str) -> None:
    """No row's tokens reach into another's number, whatever stands around it."""
    draw = np.random.default_rng(0)
    lengths = [5, 1, 0, 30, 2, 7, 0]
    nll, entropy = ([draw.exponential(3, n).tolist() for n in lengths] for _ in range(2))
    together = rate(nll, entropy, mode=mode)
    alone = [rate([n], [h], mode=mode)[0] for n, h in zip(nll, entropy, strict=True)]
    assert together == pytest.approx(alone, nan_ok=True)
    assert np.isfinite(together[0]) and np.isfinite(together[3])


@pytest.mark.parametrize("mode", DIFFICULTIES)
@pytest.mark.parametrize(
    "nll, entropy",
    [
        ([], []),
        ([NAN, 1.0, 2.0], [0.0, 1.0, 0.5]),
        ([0.0, 1.0, 2.0], [0.0, NAN, 1.0]),
        ([INF, 1.0, 2.0], [0.0, 1.0, 0.5]),
    ],
    ids=["no target", "nll NaN", "entropy NaN", "nll infinite"],
)
def test_no_difficulty_is_defined_without_targets_or_with_signals_that_are_not_finite(
    mode: str, nll: list[float], entropy: list[float]
) -> None:
    usual = [0.5, 2.0, 4.0], [1.0, 0.5, 0.2]
    found = rate([nll, usual[0]], [entropy, usual[1]], mode=mode)
    assert math.isnan(found[0]) and math.isfinite(found[1])


@pytest.mark.parametrize(
    "nll, entropy",
    [([2.0], [1.0]), ([2.0, 2.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 1.0])],
    ids=["one token", "constant loss", "constant entropy"],
)
def test_similarity_is_not_defined_without_variance_but_other_modes_are(
    nll: list[float], entropy: list[float]
) -> None:
    assert math.isnan(rate([nll], [entropy], mode="similarity")[0])
    assert rate([nll], [entropy], mode="mean_loss") == [np.mean(nll)]


def test_random_draws_by_the_seed_and_looks_at_no_signal() -> None:
    config, alone = OrderConfig(mode="random"), np.arange(20)
    first, same, other = (difficulties([], alone, config, seed) for seed in (1, 1, 2))
    assert first.tolist() == same.tolist() != other.tolist()
    assert sorted(np.argsort(first)) == list(range(20)) != np.argsort(first).tolist()


def test_random_gives_a_large_group_no_other_place_than_a_small_one() -> None:
    """The mean of a group's draws would pull it to the middle: 9 rows of one group, 8 alone."""
    groups = np.array([0] * 9 + list(range(1, 9)))
    config = OrderConfig(mode="random")
    places = []
    for seed in range(900):
        drawn = difficulties([], groups, config, seed)
        places.append(sum(drawn[9:] < drawn[:9].mean()))
    counts = np.bincount(places, minlength=9)
    assert counts.sum() == 900 and counts.min() > 60 and counts.max() < 140  # 100 each


def test_batches_are_joined_in_their_order() -> None:
    config, alone = OrderConfig(mode="mean_loss"), np.arange(3)
    parts = [batch([[1.0], [2.0]], [[0.0], [0.0]]), batch([[3.0]], [[0.0]])]
    assert difficulties(parts, alone, config, 0).tolist() == [1.0, 2.0, 3.0]
    assert difficulties([], np.arange(0), config, 0).tolist() == []
