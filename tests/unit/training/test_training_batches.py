"""From rows to the batches of an epoch: what is in them, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import TrainConfig
from ytrainer_core.data.packing import split_long, split_points
from ytrainer_core.errors import DataError
from ytrainer_core.training.batches import BatchCollator, Batches, SeededOrder, build_batches
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


def lengths_of(batches: Batches) -> list[list[list[int]]]:
    """Per item, per pack, the tokens of each piece."""
    return [
        [[len(piece["input_ids"]) for piece in pack] for pack in batches[i]]
        for i in range(len(batches))
    ]


def targets_of(batches: Batches) -> list[int]:
    """Every label that is trained, in the order of the batches."""
    return [
        int(label)
        for i in range(len(batches))
        for pack in batches[i]
        for piece in pack
        for label in piece["labels"][1:]
        if label != -100
    ]


def test_packs_keep_rows_in_order_and_fill_data_max_length(make_rows: Rows) -> None:
    rows = make_rows([20, 5, 12])
    batches = build_batches(rows, TrainConfig(), max_length=25)
    assert lengths_of(batches) == [[[20, 5]], [[12]]]
    first = batches[0][0][0]
    assert list(first["input_ids"]) == rows[0]["input_ids"]
    assert list(first["labels"]) == rows[0]["labels"]


def test_rows_in_an_arrow_file_give_the_same_batches_as_a_list(make_rows: Rows) -> None:
    rows = make_rows([20, 5, 12, 9, 9])
    for config in (TrainConfig(pack_length=12), TrainConfig(batching="token_groups")):
        listed = build_batches(rows, config, max_length=25)
        mapped = build_batches(datasets.Dataset.from_list(rows), config, max_length=25)
        assert lengths_of(mapped) == lengths_of(listed)
        assert targets_of(mapped) == targets_of(listed)


def test_pack_length_overrides_max_length(make_rows: Rows) -> None:
    batches = build_batches(make_rows([8, 8, 8]), TrainConfig(pack_length=16), max_length=100)
    assert len(batches) == 2


def test_a_row_longer_than_a_pack_is_cut_and_keeps_its_targets(make_rows: Rows) -> None:
    rows = make_rows([30], prompt=1)
    batches = build_batches(rows, TrainConfig(pack_length=12), max_length=30)
    assert sorted(targets_of(batches)) == sorted(rows[0]["labels"][1:])


def test_a_piece_without_a_target_is_left_out(make_rows: Rows) -> None:
    """40 tokens in pieces of 10 that share one: targets 30..39 lie in the last two of five."""
    batches = build_batches(make_rows([40], prompt=30), TrainConfig(pack_length=10), max_length=40)
    assert len(batches) == 2


@given(st.lists(st.booleans(), min_size=2, max_size=80), st.integers(2, 20))
def test_splitting_by_points_is_split_long_without_pieces_that_teach_nothing(
    trained: list[bool], capacity: int
) -> None:
    labels = [i if on else -100 for i, on in enumerate(trained)]
    ids = list(range(len(labels)))
    expected = [
        [label for label in part[1:] if label != -100]
        for _, part in split_long(ids, labels, capacity)
        if any(label != -100 for label in part[1:])
    ]
    targets = np.flatnonzero(np.array(labels) != -100)
    found = [
        [label for label in labels[max(first, start + 1) : end] if label != -100]
        for start, end, first in split_points(targets, len(labels), capacity)
    ]
    assert found == expected


@pytest.mark.parametrize("batching", ["packed", "token_groups", "length_grouped"])
@pytest.mark.parametrize("labels", [[-100, -100, -100], [5, -100, -100]])
def test_a_corpus_without_a_target_is_an_error_that_names_the_remedy(
    batching: str, labels: list[int]
) -> None:
    """The label of a first token is no target: nothing comes before it."""
    rows = [{"input_ids": [5, 6, 7], "labels": labels}]
    with pytest.raises(DataError, match=r"no token to train.*preview"):
        build_batches(rows, TrainConfig(batching=batching), max_length=10)


def test_token_groups_by_hand() -> None:
    """Targets at 2, 3, 4, 6 in groups of two: each sample ends at its group's last target."""
    assert list(token_groups(np.array([2, 3, 4, 6]), 2)) == [(0, 4, 2), (0, 7, 4)]


def test_the_last_group_may_be_smaller_and_is_not_lost() -> None:
    assert list(token_groups(np.array([1, 2, 3]), 2))[-1] == (0, 4, 3)


def test_groups_become_samples_in_the_order_of_the_rows(make_rows: Rows) -> None:
    config = TrainConfig(batching="token_groups", token_group_size=3)
    batches = build_batches(make_rows([6, 7]), config, max_length=10)
    assert lengths_of(batches) == [[[5]], [[6]], [[5]], [[7]]]


# --- micro-batches -------------------------------------------------------------------------------


def test_rows_of_like_length_come_together_and_each_is_seen_once(make_rows: Rows) -> None:
    rows = make_rows([5, 30, 6, 29, 7, 28])
    config = TrainConfig(batching="length_grouped", per_device_batch_size=3)
    batches = build_batches(rows, config, max_length=40)
    assert lengths_of(batches) == [[[5], [6], [7]], [[28], [29], [30]]]


def test_a_token_budget_bounds_the_padded_size_of_grouped_rows(make_rows: Rows) -> None:
    lengths = [3 + i % 28 for i in range(200)]
    config = TrainConfig(batching="length_grouped", micro_batch_tokens=64)
    batches = build_batches(make_rows(lengths), config, max_length=40)
    found = lengths_of(batches)
    assert sorted(n for item in found for pack in item for n in pack) == sorted(lengths)
    sizes = [len(item) * max(n for pack in item for n in pack) for item in found]
    assert max(sizes) <= 64
    assert np.mean(sizes) > 48


def test_a_token_budget_puts_packs_together_until_it_is_full(make_rows: Rows) -> None:
    config = TrainConfig(pack_length=10, micro_batch_tokens=25)
    batches = build_batches(make_rows([10, 10, 10, 10, 10]), config, max_length=10)
    assert batches.whole
    assert [len(item) for item in lengths_of(batches)] == [2, 2, 1]


def test_a_row_larger_than_the_token_budget_is_alone(make_rows: Rows) -> None:
    config = TrainConfig(batching="length_grouped", micro_batch_tokens=8)
    batches = build_batches(make_rows([4, 20, 4]), config, max_length=20)
    assert lengths_of(batches) == [[[4], [4]], [[20]]]


def test_the_seed_decides_who_is_grouped_unless_the_rows_are_a_curriculum(make_rows: Rows) -> None:
    rows = make_rows([9] * 40)
    config = TrainConfig(batching="length_grouped", per_device_batch_size=4)

    def first(**options: Any) -> list[int]:
        return targets_of(build_batches(rows, config, 10, **options))[:28]

    assert first(ordered=True) == [label for row in rows[:4] for label in row["labels"][2:]]
    assert first(ordered=False, seed=1) == first(ordered=False, seed=1)
    assert first(ordered=False, seed=1) != first(ordered=False, seed=2)


def test_a_curriculum_is_sorted_by_length_among_few_neighbours_only(make_rows: Rows) -> None:
    """400 rows in batches of 4: none comes more than eight batches before or behind its turn."""
    lengths = [5 + (7 * i) % 20 for i in range(400)]
    rows = make_rows(lengths)
    turn = {tuple(row["input_ids"]): i for i, row in enumerate(rows)}
    config = TrainConfig(batching="length_grouped", per_device_batch_size=4)
    batches = build_batches(rows, config, max_length=40, ordered=True)
    seen = [turn[tuple(pack[0]["input_ids"])] for i in range(100) for pack in batches[i]]
    assert sorted(seen) == list(range(400)) != seen
    assert max(abs(place - at) for place, at in enumerate(seen)) < 32


# --- tensors -------------------------------------------------------------------------------------


def test_the_collator_pads_with_the_tokenizers_token(make_rows: Rows) -> None:
    batches = build_batches(make_rows([3, 5]), TrainConfig(pack_length=5), max_length=5)
    batch = BatchCollator(pad_token_id=9, flat=False)([batches[0], batches[1]])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["input_ids"][0, 3:].tolist() == [9, 9]
    assert batch["real_tokens"] == 8


def test_a_flat_batch_has_no_padding_and_knows_where_its_documents_begin(make_rows: Rows) -> None:
    batches = build_batches(make_rows([3, 5, 4]), TrainConfig(pack_length=8), max_length=8)
    batch = BatchCollator(pad_token_id=9, flat=True)([batches[0], batches[1]])
    assert batch["input_ids"].shape == (1, 12)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 8, 12]
    assert (batch["max_length_q"], batch["real_tokens"]) == (5, 12)
    # targets are at 2 | 5, 6, 7 | 10, 11; each is predicted by the token before it
    assert batch["target_positions"].tolist() == [1, 4, 5, 6, 9, 10]


def test_weights_travel_with_their_tokens_and_are_one_elsewhere(make_rows: Rows) -> None:
    rows: list[dict[str, Any]] = make_rows([4, 3])
    rows[0]["weights"] = [0.0, 0.1, 0.2, 0.3]
    batches = build_batches(rows, TrainConfig(), max_length=8)
    batch = BatchCollator(pad_token_id=9, flat=True)([batches[0]])
    assert batch["token_weights"][0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 1, 1, 1])


def test_processes_come_out_even_by_empty_items_so_that_nothing_is_seen_twice(
    make_rows: Rows,
) -> None:
    """Seven packs for 2 processes x 2: the eighth item holds nothing and trains nothing."""
    batches = build_batches(make_rows([8] * 7), TrainConfig(), 8)
    for shuffle in (False, True):
        order = list(SeededOrder(len(batches), shuffle=shuffle, seed=3, multiple=4))
        assert sorted(order) == list(range(8))
        assert order[-1] == 7 == len(batches)
    assert batches[7] == []
    for flat in (False, True):
        alone = BatchCollator(0, flat=flat)([batches[7]])
        assert alone["real_tokens"] == 0
        assert (alone["labels"] == -100).all() and alone["labels"].numel()
        beside = BatchCollator(0, flat=flat)([batches[6], batches[7]])
        assert torch.equal(beside["labels"], BatchCollator(0, flat=flat)([batches[6]])["labels"])
