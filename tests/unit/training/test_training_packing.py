"""Packs: every row once, none cut that fits, order kept where it can be, targets counted once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.data.packing import IGNORED, best_fit_packs, collate_packs, split_long


@st.composite
def _lengths_and_capacity(draw: st.DrawFn) -> tuple[list[int], int, int]:
    capacity = draw(st.integers(1, 40))
    lengths = draw(st.lists(st.integers(1, capacity), max_size=60))
    return lengths, capacity, draw(st.integers(1, 8))


@settings(deadline=None, max_examples=200)
@given(_lengths_and_capacity())
def test_packs_hold_every_row_once_within_capacity_in_order(
    case: tuple[list[int], int, int],
) -> None:
    lengths, capacity, open_packs = case
    packs = best_fit_packs(lengths, capacity, open_packs)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= capacity for pack in packs)
    assert [pack[0] for pack in packs] == sorted(pack[0] for pack in packs)
    assert all(pack == sorted(pack) for pack in packs)


@settings(deadline=None)
@given(_lengths_and_capacity())
def test_with_all_packs_open_no_two_packs_could_be_one(case: tuple[list[int], int, int]) -> None:
    """A pack was only opened because its first row fitted into none before it."""
    lengths, capacity, _ = case
    packs = best_fit_packs(lengths, capacity, open_packs=len(lengths) + 1)
    for later, pack in enumerate(packs):
        for earlier in packs[:later]:
            before = sum(lengths[row] for row in earlier if row < pack[0])
            assert before + lengths[pack[0]] > capacity


@pytest.mark.parametrize(
    "lengths, capacity, packs",
    [
        ([], 10, []),
        ([10, 10], 10, [[0], [1]]),
        ([6, 5, 4], 10, [[0, 2], [1]]),  # 4 fills the pack with room 4, not the one with 5
        ([6, 5, 4, 5], 10, [[0, 2], [1, 3]]),
        ([3, 3, 3, 3], 10, [[0, 1, 2], [3]]),
    ],
)
def test_a_row_goes_where_it_leaves_the_least_room(
    lengths: list[int], capacity: int, packs: list[list[int]]
) -> None:
    assert best_fit_packs(lengths, capacity) == packs


def test_only_the_last_packs_are_open_so_that_a_curriculum_survives() -> None:
    """With one open pack, the 4 cannot go back to the 6 that it would complete."""
    assert best_fit_packs([6, 7, 4], 10, open_packs=1) == [[0], [1], [2]]
    assert best_fit_packs([6, 7, 4], 10, open_packs=2) == [[0, 2], [1]]


@settings(deadline=None, max_examples=200)
@given(_lengths_and_capacity())
def test_a_row_comes_at_most_as_many_packs_early_as_are_open(
    case: tuple[list[int], int, int],
) -> None:
    lengths, capacity, open_packs = case
    packs = best_fit_packs(lengths, capacity, open_packs, close_oldest=True)
    for number, pack in enumerate(packs):
        for row in pack:
            opened_before = sum(other[0] < row for other in packs)
            assert opened_before - number <= open_packs


def test_the_last_row_does_not_go_back_to_a_pack_of_the_beginning() -> None:
    """The first pack has room for it all the time, and is no neighbour any more."""
    packs = best_fit_packs([1, *[100] * 500, 99], 100, close_oldest=True)
    assert packs[0] == [0] and packs[-1] == [501]


def test_a_row_longer_than_a_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="row 1 has 11 tokens, more than a pack of 10"):
        best_fit_packs([3, 11], 10)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(2, 20))
def test_every_token_but_the_first_is_a_target_exactly_once_after_the_token_before_it(
    length: int, capacity: int
) -> None:
    ids = list(range(length))
    targets = []
    for input_ids, labels in split_long(ids, [IGNORED, *ids[1:]], capacity):
        assert len(input_ids) == len(labels) <= capacity
        for before, label in zip(input_ids, labels[1:], strict=False):
            if label != IGNORED:
                assert before == label - 1
                targets.append(label)
    assert targets == ids[1:]


def test_pieces_of_a_long_row_by_hand() -> None:
    """Seven tokens in pieces of four: the fourth token is the context of the second piece."""
    pieces = split_long([1, 2, 3, 4, 5, 6, 7], [-100, -100, 3, 4, 5, 6, 7], 4)
    assert pieces == [
        ([1, 2, 3, 4], [-100, -100, 3, 4]),
        ([4, 5, 6, 7], [-100, 5, 6, 7]),
    ]


def test_a_row_that_fits_is_not_touched() -> None:
    ids, labels = [1, 2], [-100, 2]
    ((same_ids, same_labels),) = split_long(ids, labels, 2)
    assert same_ids is ids and same_labels is labels


def test_positions_restart_first_labels_are_ignored_and_padding_is_a_document(
    make_rows: Callable[..., list[dict[str, list[int]]]],
) -> None:
    first = {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}
    second = {"input_ids": [8, 9], "labels": [8, 9]}
    batch = collate_packs([[first, second], [second]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [8, 9, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100, 9, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]


def test_a_token_equal_to_padding_is_still_a_target() -> None:
    """Masked by position, not by value: the end of a document often is the padding token."""
    batch = collate_packs([[{"input_ids": [5, 0], "labels": [5, 0]}]], pad_token_id=0)
    assert batch["labels"].tolist() == [[-100, 0]]
