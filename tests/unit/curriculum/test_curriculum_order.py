"""From easy to hard: each difficulty by hand, and a permutation that keeps ties in place."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.order import difficulties, permutation


def rate(nll: list[list[float]], entropy: list[list[float]], **config: Any) -> list[float]:
    arrays = [[np.asarray(row, float) for row in rows] for rows in (nll, entropy)]
    return difficulties(*arrays, OrderConfig(**config), seed=0).tolist()


@pytest.mark.parametrize(
    "nll, entropy, difficulty",
    [
        ([0, 1, 2], [0, 2, 4], -1.0),  # unsure exactly where it is wrong: easy
        ([0, 1, 2], [4, 2, 0], 1.0),  # sure where it is wrong: hard
        ([1, -1, 1, -1], [1, 1, 0, 0], 0.0),
        ([0, 1, 2], [0, 0, 3], -0.8660),  # (1 + 0 + 2) / (sqrt 2 x sqrt 6)
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
    "mode, expected", [("mean_loss", [2.0, 5.0]), ("entropy", [0.5, 1.0]), ("length", [2.0, 1.0])]
)
def test_the_plain_modes(mode: str, expected: list[float]) -> None:
    assert rate([[1.0, 3.0], [5.0]], [[0.0, 1.0], [1.0]], mode=mode) == expected


@pytest.mark.parametrize("nll, entropy", [([2.0], [1.0]), ([2.0, 2.0], [0.0, 1.0]),
                                          ([0.0, 1.0], [1.0, 1.0])])  # fmt: skip
def test_a_row_without_variance_is_the_easiest_of_similarity(
    nll: list[float], entropy: list[float]
) -> None:
    assert rate([nll], [entropy], mode="similarity") == [-1.0]


@pytest.mark.parametrize("mode", ["similarity", "filtered", "mean_loss", "entropy", "length"])
def test_a_row_without_targets_comes_before_all_others(mode: str) -> None:
    found = rate([[0.0, 0.0], []], [[0.0, 0.0], []], mode=mode)
    assert found[1] == -math.inf < found[0]


def test_none_keeps_the_order_of_the_file() -> None:
    assert rate([[5.0], [1.0]], [[0.0], [0.0]], mode="none") == [0.0, 1.0]


def test_random_is_a_permutation_by_seed() -> None:
    rows = [np.ones(1)] * 20
    config = OrderConfig(mode="random")
    first, same, other = (difficulties(rows, rows, config, seed) for seed in (1, 1, 2))
    assert sorted(first) == list(range(20)) != first.tolist()
    assert first.tolist() == same.tolist() != other.tolist()


def test_equal_difficulties_keep_their_order_in_the_file_both_ways() -> None:
    difficulty = np.array([2.0, 1.0, 2.0, -np.inf, 1.0])
    assert permutation(difficulty, descending=False) == [3, 1, 4, 0, 2]
    assert permutation(difficulty, descending=True) == [0, 2, 1, 4, 3]


@given(st.lists(st.floats(-5, 5), max_size=30), st.booleans())
def test_every_row_comes_once_and_never_out_of_order(values: list[float], descending: bool) -> None:
    order = permutation(np.asarray(values, float), descending=descending)
    assert sorted(order) == list(range(len(values)))
    sign = -1 if descending else 1
    for before, after in itertools.pairwise(order):
        assert (sign * values[before], before) < (sign * values[after], after)
