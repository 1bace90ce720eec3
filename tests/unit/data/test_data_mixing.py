"""Replay: how many rows of another corpus come between the rows of the corpus, and where."""

from __future__ import annotations

import datasets
import pytest

from ytrainer_core.data.mixing import replay_order, with_replay

OWN = 10
OLD = 100


def replayed(order: list[int]) -> list[int]:
    return [number for number in order if number >= OWN]


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.2, 2), (0.55, 6), (3.0, 30)])
def test_as_many_rows_are_replayed_as_the_ratio_asks_for(ratio: float, count: int) -> None:
    drawn = replayed(replay_order(OWN, OLD, ratio, seed=0))
    assert len(drawn) == len(set(drawn)) == count


def test_where_there_are_fewer_all_are_taken_once() -> None:
    assert sorted(replayed(replay_order(OWN, 4, 2.0, seed=0))) == [10, 11, 12, 13]


def test_the_corpus_keeps_its_order_and_replay_is_spread_evenly() -> None:
    mixed = replay_order(OWN, OLD, 0.5, seed=0)
    assert [number for number in mixed if number < OWN] == list(range(OWN))
    assert [number >= OWN for number in mixed] == [False, False, True] * 5


def test_the_seed_decides_which_rows_are_replayed() -> None:
    assert replay_order(OWN, OLD, 0.5, seed=1) == replay_order(OWN, OLD, 0.5, seed=1)
    assert replay_order(OWN, OLD, 0.5, seed=1) != replay_order(OWN, OLD, 0.5, seed=2)


def test_rows_come_from_both_corpora_also_where_one_is_a_selection() -> None:
    own = datasets.Dataset.from_dict({"text": ["c", "b", "a"]}).select([2, 1, 0])
    old = datasets.Dataset.from_dict({"text": ["x", "y"]})
    mixed = with_replay(own, old, 2 / 3, seed=0)["text"]
    assert [text for text in mixed if text in "abc"] == ["a", "b", "c"]
    assert sorted(text for text in mixed if text in "xy") == ["x", "y"]
