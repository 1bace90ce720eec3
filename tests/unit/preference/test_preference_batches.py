"""Batches: every row once, never alone, labels mixed, no answer twice, always the same."""

from __future__ import annotations

import random

import pytest
from preference_examples import random_rows, rows_with

from ytrainer_core.errors import DataError
from ytrainer_core.preference.batches import (
    mismatched,
    mixed_batches,
    number_of_batches,
    pair_batches,
)
from ytrainer_core.preference.columns import FixedBatches, batched


@pytest.mark.parametrize(
    ("rows", "batch_size", "batches"),
    [
        (2, 2, 1), (3, 2, 1), (5, 2, 2), (8, 4, 2), (9, 4, 3), (9, 8, 2), (17, 8, 3), (2, 8, 1),
    ],
)  # fmt: skip
def test_there_are_as_many_batches_as_leave_no_row_alone(
    rows: int, batch_size: int, batches: int
) -> None:
    assert number_of_batches(rows, batch_size) == batches


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_every_row_is_in_one_batch_and_none_is_alone(batch_size: int) -> None:
    for number in range(2, 40):
        batches = mixed_batches(random_rows(number), batch_size, seed=number)
        assert sorted(row for batch in batches for row in batch) == list(range(number))
        sizes = [len(batch) for batch in batches]
        assert min(sizes) >= 2 and max(sizes) <= max(batch_size, 3) and max(sizes) - min(sizes) <= 1


def test_rows_sorted_by_label_are_spread_over_all_batches() -> None:
    rows = rows_with(range(60), [True] * 45 + [False] * 15)
    for seed in range(20):
        for batch in mixed_batches(rows, 8, seed):
            liked = sum(rows[i].label for i in batch)
            assert 5 <= liked <= 6 and 1 <= len(batch) - liked <= 2


def test_a_seed_gives_the_same_batches_and_another_gives_others() -> None:
    rows = random_rows(30)
    assert mixed_batches(rows, 4, 1) == mixed_batches(rows, 4, 1) != mixed_batches(rows, 4, 2)


def test_equal_answers_never_meet_whatever_their_labels() -> None:
    """Up to as many rows of one answer as there are batches."""
    for seed in range(40):
        rng = random.Random(seed)
        number, batch_size = rng.randint(8, 60), rng.choice([2, 4, 8])
        most = number_of_batches(number, batch_size)
        answers: list[int] = []
        while len(answers) < number:
            answers += [len(answers)] * min(rng.randint(1, most), number - len(answers))
        rng.shuffle(answers)
        rows = rows_with(answers, [rng.random() < 0.5 for _ in answers])
        for batch in mixed_batches(rows, batch_size, seed):
            met = [answers[i] for i in batch]
            assert len(set(met)) == len(met)
            others = [answers[i] for i in mismatched(batch)]
            assert all(own != other for own, other in zip(met, others, strict=True))
            assert sorted(others) == sorted(met)  # the same set of answers, as KTO asks for


def test_an_answer_of_too_many_rows_is_refused_with_a_batch_size_that_will_do() -> None:
    rows = rows_with([0] * 5 + list(range(1, 16)), [True, False] * 10)
    with pytest.raises(DataError, match=r"5 of 20 rows have the same answer .*rows:0, rows:1"):
        mixed_batches(rows, 8, 0)
    with pytest.raises(DataError, match=r"Set preference\.batch_size=4,"):
        mixed_batches(rows, 8, 0)
    assert len(mixed_batches(rows, 4, 0)) == 5


def test_an_answer_of_most_rows_is_refused_and_no_batch_size_promised() -> None:
    rows = rows_with([0] * 6 + [1, 2, 3], [True] * 5 + [False] * 4)
    with pytest.raises(DataError, match=r"Leave most of them out, or take preference\.loss=apo"):
        mixed_batches(rows, 4, 0)
    assert mixed_batches(rows, 4, 0, distinct=False)


def test_each_row_is_compared_with_the_answer_before_it_in_its_own_batch() -> None:
    rows = rows_with(range(10, 15), [True, False, True, False, True])
    made = batched(rows, [[3, 0], [4, 1, 2]], kl=True)
    assert made.sizes == [2, 3]
    assert made.rows["completion_ids"] == [[13], [10], [14], [11], [12]]
    assert made.rows["KL_completion_ids"] == [[10], [13], [12], [14], [11]]
    assert made.rows["label"] == [False, True, True, False, True]
    assert list(FixedBatches(made.sizes)) == [[0, 1], [2, 3, 4]]


def test_pairs_stay_together() -> None:
    rows = rows_with(range(14), [True, False] * 7)
    batches = pair_batches(rows, 3, seed=1)
    assert [len(batch) for batch in batches] == [6, 6, 2]
    for batch in batches:
        assert [(a % 2, b - a) for a, b in zip(batch[::2], batch[1::2], strict=True)] == [
            (0, 1)
        ] * (len(batch) // 2)


def test_one_row_makes_no_batch() -> None:
    with pytest.raises(ValueError, match="1 rows make no batch"):
        mixed_batches(random_rows(1), 4, 0)
