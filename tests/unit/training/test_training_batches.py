"""From rows to the batches of an epoch: what is in them, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ytrainer_core.config import TrainConfig
from ytrainer_core.errors import DataError
from ytrainer_core.training.batches import PackCollator, SeededOrder, build_packs
from ytrainer_core.training.token_groups import token_groups

Rows = Callable[..., list[dict[str, list[int]]]]


def order_of(epoch: int, *, shuffle: bool = True, seed: int = 3, length: int = 20) -> list[int]:
    order = SeededOrder(length, shuffle=shuffle, seed=seed)
    order.set_epoch(epoch)
    assert len(order) == length
    return list(order)


def test_a_curriculum_is_kept_in_every_epoch() -> None:
    assert order_of(0, shuffle=False) == order_of(5, shuffle=False) == list(range(20))


def test_a_shuffle_is_a_permutation_that_differs_by_epoch_and_by_seed_alone() -> None:
    assert sorted(order_of(0)) == list(range(20)) != order_of(0)
    assert order_of(0) == order_of(0)
    assert order_of(1) == order_of(1) != order_of(0)
    assert order_of(0, seed=4) != order_of(0)


def test_packs_keep_rows_in_order_and_fill_data_max_length(make_rows: Rows) -> None:
    rows = make_rows([20, 5, 12])
    packs = build_packs(rows, TrainConfig(), max_length=25)
    assert [[len(row["input_ids"]) for row in packs[i]] for i in range(len(packs))] == [
        [20, 5],
        [12],
    ]
    assert packs[0] == rows[:2]


def test_pack_length_overrides_max_length(make_rows: Rows) -> None:
    packs = build_packs(make_rows([8, 8, 8]), TrainConfig(pack_length=16), max_length=100)
    assert len(packs) == 2


def test_a_row_longer_than_a_pack_is_cut_and_keeps_its_targets(make_rows: Rows) -> None:
    rows = make_rows([30], prompt=1)
    packs = build_packs(rows, TrainConfig(pack_length=12), max_length=30)
    pieces = [row for i in range(len(packs)) for row in packs[i]]
    targets = [label for row in pieces for label in row["labels"] if label != -100]
    assert sorted(targets) == sorted(rows[0]["labels"][1:])


def test_a_piece_without_a_target_is_left_out(make_rows: Rows) -> None:
    """40 tokens in pieces of 10 that share one: targets 30..39 lie in the last two of five."""
    packs = build_packs(make_rows([40], prompt=30), TrainConfig(pack_length=10), max_length=40)
    assert len(packs) == 2


@pytest.mark.parametrize("batching", ["packed", "token_groups"])
@pytest.mark.parametrize("labels", [[-100, -100, -100], [5, -100, -100]])
def test_a_corpus_without_a_target_is_an_error_that_names_the_remedy(
    batching: str, labels: list[int]
) -> None:
    """The label of a first token is no target: nothing comes before it."""
    rows = [{"input_ids": [5, 6, 7], "labels": labels}]
    with pytest.raises(DataError, match=r"no token to train.*preview"):
        build_packs(rows, TrainConfig(batching=batching), max_length=10)


def test_token_groups_by_hand() -> None:
    """Targets at 2, 3, 4, 6 in groups of two: each sample ends at its group's last target."""
    ids, labels = [10, 11, 12, 13, 14, 15, 16, 17], [-100, -100, 12, 13, 14, -100, 16, -100]
    assert list(token_groups(ids, labels, 2)) == [
        ([10, 11, 12, 13], [-100, -100, 12, 13]),
        ([10, 11, 12, 13, 14, 15, 16], [-100, -100, -100, -100, 14, -100, 16]),
    ]


def test_the_last_group_may_be_smaller_and_is_not_lost() -> None:
    groups = list(token_groups([1, 2, 3, 4], [-100, 2, 3, 4], 2))
    assert groups[-1] == ([1, 2, 3, 4], [-100, -100, -100, 4])


def test_groups_become_samples_in_the_order_of_the_rows(make_rows: Rows) -> None:
    rows = make_rows([6, 7])
    config = TrainConfig(batching="token_groups", token_group_size=3)
    packs = build_packs(rows, config, max_length=10)
    ends = [len(row["input_ids"]) for i in range(len(packs)) for row in packs[i]]
    assert ends == [5, 6, 5, 7]


def test_the_collator_pads_with_the_tokenizers_token(make_rows: Rows) -> None:
    batch: dict[str, Any] = PackCollator(pad_token_id=9)([make_rows([3]), make_rows([5])])
    assert batch["input_ids"][0, 3:].tolist() == [9, 9]
