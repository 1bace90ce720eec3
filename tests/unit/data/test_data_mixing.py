"""Which rows are held out, sampled, joined and replayed: by hand, and by what must never change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.data.formats import Row, Turn
from ytrainer_core.data.mixing import held_out, joined, joined_groups, replay_order, sampled


def digests(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2**63, (count, 2)).astype(np.uint64)


def nothing(count: int) -> Any:
    return np.zeros(count, np.int32)


# --- held out ------------------------------------------------------------------------------------


def test_about_the_share_is_held_out_and_at_most_the_limit() -> None:
    rows = digests(10_000)
    out = held_out(rows, nothing(10_000), 0.1, 10_000, seed=1)
    assert 900 < out.sum() < 1100
    few = held_out(rows, nothing(10_000), 0.1, 300, seed=1)
    assert few.sum() == 300 and not (few & ~out).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 300), st.integers(0, 300), st.integers(0, 5))
def test_rows_that_are_added_move_none_from_training_to_validation(
    count: int, more: int, seed: int
) -> None:
    rows = digests(count + more, seed)
    before = held_out(rows[:count], nothing(count), 0.2, 20, seed)
    after = held_out(rows, nothing(count + more), 0.2, 20, seed)[:count]
    settled = before.sum() > 1 and (~before).sum() > 1  # one row may be held out out of need
    assert not settled or not (after & ~before).any()


def test_rows_of_one_prompt_stay_together() -> None:
    rows = np.repeat(digests(100), 3, axis=0)
    out = held_out(rows, nothing(300), 0.3, 1000, seed=0).reshape(100, 3)
    assert (out.all(1) == out.any(1)).all() and 15 < out.all(1).sum() < 45


def test_every_source_large_enough_gives_one_row() -> None:
    sources = np.array([0] * 1000 + [1] * 10 + [2] * 3, np.int32)
    for seed in range(10):
        out = held_out(digests(1013), sources, 0.1, 1000, seed)
        assert out[sources == 1].any()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_of_two_rows_one_is_trained_and_one_held_out(share: float) -> None:
    assert held_out(digests(2), nothing(2), share, 1000, seed=0).sum() == 1


def test_nothing_is_held_out_of_one_row_or_for_a_share_of_zero() -> None:
    assert not held_out(digests(1), nothing(1), 0.5, 1000, seed=0).any()
    assert not held_out(digests(9), nothing(9), 0.0, 1000, seed=0).any()


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "count"), [(0.01, 1), (0.5, 50), (1.0, 100), (1.5, 150), (2.0, 200), (10.0, 1000)]
)
def test_a_rate_takes_that_many_rows_and_each_as_evenly_as_can_be(rate: float, count: int) -> None:
    rows = np.arange(100, 200)
    taken = sampled(rows, rate, seed=3)
    often = np.bincount(taken - 100, minlength=100)
    assert len(taken) == count and often.max() - often.min() <= 1
    assert (sampled(rows, rate, seed=3) == taken).all()


def test_another_seed_takes_others() -> None:
    rows = np.arange(100)
    assert (sampled(rows, 0.5, seed=1) != sampled(rows, 0.5, seed=2)).any()


def test_a_rate_may_count_characters() -> None:
    rows, sizes = np.arange(4), np.array([1000, 10, 10, 10])
    for seed in range(20):
        taken = sampled(rows, 0.1, seed, sizes=sizes)
        assert sizes[taken].sum() <= 0.1 * 1030 or len(taken) == 1


# --- joined rows ---------------------------------------------------------------------------------


def groups(probability: float, most: int = 100, systems: Any = None) -> list[list[int]]:
    count = 50
    return joined_groups(
        np.arange(count) + 7,
        np.full(count, 30),
        np.arange(count) != 4,
        np.zeros(count, np.uint64) if systems is None else systems,
        probability,
        most,
        seed=0,
    )


def test_joined_groups_hold_every_row_once_and_no_more_than_the_limit() -> None:
    made = groups(1.0)
    assert sorted(p for group in made for p in group) == list(range(7, 57))
    assert max(map(len, made)) == 3 and [11] in made  # 3 x 30 tokens; row 4 may not be joined
    assert sum(len(group) == 3 for group in made) == 16


def test_no_row_is_joined_at_probability_zero() -> None:
    assert groups(0.0) == [[p] for p in range(7, 57)]


def test_only_rows_with_one_system_turn_are_joined() -> None:
    systems = (np.arange(50) % 2).astype(np.uint64)
    made = groups(1.0, systems=systems)
    assert all(len({(p - 7) % 2 for p in group}) == 1 for group in made)
    assert any(len(group) > 1 for group in made)


def test_a_joined_row_has_all_turns_and_one_system_turn() -> None:
    rows = [
        Row(f"f:{i}", (Turn("system", "s"), Turn("user", f"q{i}"), Turn("assistant", f"a{i}")))
        for i in range(2)
    ]
    made = joined(rows)
    assert [t.content for t in made.turns] == ["s", "q0", "a0", "q1", "a1"]
    assert made.origin == "f:0 + f:1"


# --- replay --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0, 3))
def test_replay_keeps_the_rows_in_order_and_repeats_none(
    rows: int, first: int, second: int, ratio: float
) -> None:
    order = replay_order(rows, [(first, ratio), (second, 0.1)], seed=1)
    assert [i for i in order if i < rows] == list(range(rows))
    assert len(set(order)) == len(order) and max(order) < rows + first + second
    counts = [sum(rows <= i < rows + first for i in order), sum(i >= rows + first for i in order)]
    assert counts == [min(first, round(ratio * rows)), min(second, round(0.1 * rows))]


def test_replayed_rows_are_spread_evenly() -> None:
    order = replay_order(100, [(50, 0.2)], seed=0)
    gaps = np.diff([at for at, row in enumerate(order) if row >= 100])
    assert len(gaps) == 19 and set(gaps) == {6}
