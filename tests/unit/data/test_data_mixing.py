"""Replay: how many rows of another corpus come between the rows of the corpus, and where."""

import pytest

from ytrainer_core.data.mixing import with_replay

ROWS = [f"own {i}" for i in range(10)]
REPLAY = [f"old {i}" for i in range(100)]


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.2, 2), (0.55, 6), (3.0, 30)])
def test_as_many_rows_are_replayed_as_the_ratio_asks_for(ratio: float, count: int) -> None:
    mixed = with_replay(ROWS, REPLAY, ratio, seed=0)
    drawn = [row for row in mixed if row in REPLAY]
    assert len(drawn) == len(set(drawn)) == count


def test_where_there_are_fewer_all_are_taken_once() -> None:
    mixed = with_replay(ROWS, REPLAY[:4], 2.0, seed=0)
    assert sorted(row for row in mixed if row in REPLAY) == REPLAY[:4]


def test_the_corpus_keeps_its_order_and_replay_is_spread_evenly() -> None:
    mixed = with_replay(ROWS, REPLAY, 0.5, seed=0)
    assert [row for row in mixed if row in ROWS] == ROWS
    assert [row in REPLAY for row in mixed] == [False, False, True] * 5


def test_the_seed_decides_which_rows_are_replayed() -> None:
    assert with_replay(ROWS, REPLAY, 0.5, seed=1) == with_replay(ROWS, REPLAY, 0.5, seed=1)
    assert with_replay(ROWS, REPLAY, 0.5, seed=1) != with_replay(ROWS, REPLAY, 0.5, seed=2)
