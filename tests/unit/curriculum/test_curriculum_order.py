"""From difficulties to the order: directions, ties, degenerate rows, schedules, groups."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.order import SCHEDULES, permutation

NAN = math.nan
Draws = st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), max_size=30)


def ordered(
    difficulty: list[float], groups: list[int] | None = None, seed: int = 0, **config: Any
) -> list[int]:
    """Row numbers in training order; without groups every row is alone."""
    of = np.arange(len(difficulty)) if groups is None else np.asarray(groups)
    values = np.asarray(difficulty, float)
    return permutation(values, of, OrderConfig(**config), seed).tolist()


def test_equal_difficulties_keep_their_order_in_the_file_both_ways() -> None:
    difficulty = [2.0, 1.0, 2.0, 0.0, 1.0]
    assert ordered(difficulty) == [3, 1, 4, 0, 2]
    assert ordered(difficulty, descending=True) == [0, 2, 1, 4, 3]


@pytest.mark.parametrize("descending, expected", [(False, [4, 2, 0, 1, 3]),
                                                  (True, [0, 2, 4, 1, 3])])  # fmt: skip
def test_rows_without_a_difficulty_stand_behind_all_others_in_both_directions(
    descending: bool, expected: list[int]
) -> None:
    assert ordered([3.0, NAN, 2.0, NAN, 1.0], descending=descending) == expected


@given(Draws, st.booleans())
def test_sorted_is_never_out_of_order(values: list[float], descending: bool) -> None:
    order = ordered(values, descending=descending)
    sign = -1 if descending else 1
    standing = [math.inf if math.isnan(value) else sign * value for value in values]
    for before, after in itertools.pairwise(order):
        assert (standing[before], before) < (standing[after], after)


@given(Draws, st.sampled_from(sorted(SCHEDULES)), st.booleans(), st.data())
def test_every_schedule_gives_every_row_once_and_groups_stay_together(
    values: list[float], schedule: str, descending: bool, data: Any
) -> None:
    keys = data.draw(
        st.lists(st.integers(0, 4), min_size=len(values), max_size=len(values)), label="groups"
    )
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(key, len(numbers)) for key in keys]
    order = ordered(values, groups, schedule=schedule, descending=descending, buckets=3)
    assert sorted(order) == list(range(len(values)))
    assert len(list(itertools.groupby(order, key=lambda i: groups[i]))) == len(numbers)
    sign = -1 if descending else 1
    standing = [math.inf if math.isnan(value) else sign * value for value in values]
    for _, members in itertools.groupby(order, key=lambda i: groups[i]):
        placed = [(standing[i], i) for i in members]
        assert placed == sorted(placed)


# --- groups --------------------------------------------------------------------------------------


def test_a_group_stands_where_its_mean_difficulty_says_and_inside_by_difficulty() -> None:
    """Group 0: rows 0, 3 and 4 with 5, 1 and no difficulty, mean 3; the others are 2, 4 and 0."""
    difficulty, groups = [5.0, 2.0, 4.0, 1.0, NAN, 0.0], [0, 1, 2, 0, 0, 3]
    assert ordered(difficulty, groups) == [5, 1, 3, 0, 4, 2]
    assert ordered(difficulty, groups, descending=True) == [2, 0, 3, 4, 1, 5]


def test_a_group_of_rows_without_difficulty_stands_last() -> None:
    assert ordered([NAN, 9.0, NAN], [0, 1, 0]) == [1, 0, 2]
    assert ordered([NAN, 9.0, NAN], [0, 1, 0], descending=True) == [1, 0, 2]


def test_buckets_hold_whole_groups_and_equally_many_rows() -> None:
    """Groups of 4, 1, 1, 1, 1 rows in two buckets: the first alone, then the others, shuffled."""
    groups = [0, 0, 0, 0, 1, 2, 3, 4]
    difficulty = [float(group) for group in groups]
    seen = set()
    for seed in range(200):
        order = ordered(difficulty, groups, seed, schedule="buckets", buckets=2)
        assert order[:4] == [0, 1, 2, 3]
        seen.add(tuple(order[4:]))
    assert len(seen) == 24


# --- schedules -----------------------------------------------------------------------------------


def test_buckets_are_equal_parts_of_the_sorted_rows_and_shuffled_by_the_seed() -> None:
    difficulty = [float(-i) for i in range(100)]  # the last row is the easiest
    first, same, other = (
        ordered(difficulty, None, seed, schedule="buckets", buckets=10) for seed in (1, 1, 2)
    )
    assert first == same != other
    for order in (first, other):
        for at in range(0, 100, 10):
            part = order[at : at + 10]
            assert sorted(part) == list(range(90 - at, 100 - at))
            assert part != sorted(part, reverse=True)


def test_one_bucket_shuffles_all_and_as_many_as_rows_none() -> None:
    difficulty = [float(i) for i in range(30)]
    assert ordered(difficulty, schedule="buckets", buckets=30) == list(range(30))
    assert ordered(difficulty, schedule="buckets", buckets=1000) == list(range(30))
    assert ordered(difficulty, schedule="buckets", buckets=1) != list(range(30))


@pytest.mark.parametrize("descending", [False, True])
def test_competence_draws_from_a_share_that_grows_with_the_root_of_time(descending: bool) -> None:
    """At position i of n only rows of the easiest (hardest) c(i / n) come."""
    n, start = 200, 0.2
    difficulty = [float(i) for i in range(n)]
    reached = []
    for seed in range(50):
        order = ordered(
            difficulty, None, seed, schedule="competence", competence_start=start,
            descending=descending,
        )  # fmt: skip
        ranks = [n - 1 - i for i in order] if descending else order
        for at, rank in enumerate(ranks):
            t = at / n
            competence = min(1.0, math.sqrt(t * (1 - start**2) + start**2))
            assert rank < max(at + 1, competence * n + 1e-9)
        reached.append(max(ranks[:50]))
    # c(1/4) = sqrt(.24 + .04) = .529: the share is used up to its end, and not the corpus
    assert 90 < max(reached) < 0.53 * n


def test_competence_draws_uniformly_among_the_rows_it_may_take() -> None:
    """The first of 10 rows with c0 = 0.5: rows 0 to 4, each in a fifth of 2,000 seeds."""
    difficulty = [float(i) for i in range(10)]
    firsts = [
        ordered(difficulty, None, seed, schedule="competence", competence_start=0.5)[0]
        for seed in range(2000)
    ]
    counts = np.bincount(firsts, minlength=10)
    assert counts[5:].sum() == 0
    assert counts[:5].min() > 330 and counts[:5].max() < 470  # 400 each, deviation 18


def test_competence_from_the_whole_corpus_is_a_shuffle() -> None:
    """c0 = 1: every row may come first."""
    difficulty = [float(i) for i in range(4)]
    orders = {
        tuple(ordered(difficulty, None, seed, schedule="competence", competence_start=1.0))
        for seed in range(400)
    }
    assert len(orders) == 24


def test_competence_counts_rows_where_groups_are_drawn() -> None:
    """Groups of 6, 1, 1, 1, 1 rows, c0 = 0.3: at the start only the first group begins within
    the easiest 3 rows; after it, c(0.6) = 0.7975, those that begin before row 7.975."""
    groups = [0] * 6 + [1, 2, 3, 4]
    difficulty = [float(group) for group in groups]
    seconds = set()
    for seed in range(60):
        order = ordered(difficulty, groups, seed, schedule="competence", competence_start=0.3)
        assert order[:6] == [0, 1, 2, 3, 4, 5]
        seconds.add(groups[order[6]])
    assert seconds == {1, 2}
