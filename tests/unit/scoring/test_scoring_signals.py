"""The signals of a row are its own, whatever the batch, the padding, or the pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.scoring.signals import length_batches, mean_nll, token_signals

Make = Callable[..., Any]


@pytest.mark.parametrize("batch_tokens", [1, 20, 30, 8192])
def test_signals_equal_those_of_each_row_alone_in_the_rows_order(
    batch_tokens: int, make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    model, rows = make_model(), make_rows([5, 14, 9, 3, 14], prompt=2)
    found = token_signals(model, rows, batch_tokens=batch_tokens)
    for row, signals in zip(rows, found, strict=True):
        nll, entropy, top = plain_signals(model, row)
        np.testing.assert_allclose(signals.nll, nll, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(signals.entropy, entropy, rtol=1e-4, atol=1e-5)
        assert signals.expected.tolist() == top.tolist()
        assert signals.positions.tolist() == list(range(2, len(row["labels"])))


def test_only_labelled_tokens_are_targets_and_the_first_never_is(make_model: Make) -> None:
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [5, -100, 7, -100]},
        {"input_ids": [5, 6], "labels": [-100, -100]},
    ]
    first, second = token_signals(make_model(), rows)
    assert first.positions.tolist() == [2] and first.nll.shape == (1,)
    assert second.positions.tolist() == [] and second.nll.shape == (0,)


@pytest.mark.parametrize("max_length", [2, 5, 8, 19, 20, 0])
def test_pieces_have_the_same_targets_as_the_whole_row(
    max_length: int, make_model: Make, make_rows: Make
) -> None:
    rows = make_rows([20, 6], prompt=1)
    found = token_signals(make_model(), rows, max_length=max_length)
    for row, signals in zip(rows, found, strict=True):
        assert signals.positions.tolist() == list(range(1, len(row["labels"])))


@pytest.mark.parametrize("trained", [[1, 2, 6, 9], [7, 8, 9], [4], [3], [9], []])
def test_positions_point_into_the_whole_row_whatever_is_masked(
    trained: list[int], make_model: Make
) -> None:
    """Pieces of four: 0-3, 3-6, 6-9; a piece may end on tokens that are no target."""
    ids = list(range(10, 20))
    labels = [ids[i] if i in trained else -100 for i in range(10)]
    (signals,) = token_signals(make_model(), [{"input_ids": ids, "labels": labels}], max_length=4)
    assert signals.positions.tolist() == trained


def test_a_token_of_a_piece_sees_its_piece_alone(
    make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    model, (row,) = make_model(), make_rows([7], prompt=1)
    (signals,) = token_signals(model, [row], max_length=4)
    ids = row["input_ids"]
    parts = [{"input_ids": p, "labels": [-100, *p[1:]]} for p in (ids[:4], ids[3:])]
    expected = torch.cat([plain_signals(model, part)[0] for part in parts])
    np.testing.assert_allclose(signals.nll, expected, rtol=1e-4, atol=1e-5)


def test_a_trained_model_is_read_without_its_objective_and_put_back_to_training(
    make_model: Make, make_rows: Make
) -> None:
    model, rows = make_model(), make_rows([8])
    plain = token_signals(model, rows)[0].nll
    attach_objective(model, ObjectiveConfig(name="nlirg"))
    model.train()
    np.testing.assert_array_equal(token_signals(model, rows)[0].nll, plain)
    assert model.training


def test_no_rows_are_no_signals(make_model: Make) -> None:
    assert token_signals(make_model(), []) == []
    assert math.isnan(mean_nll(make_model(), []))


def test_the_mean_is_over_tokens_not_over_rows(make_model: Make, make_rows: Make) -> None:
    model, rows = make_model(), make_rows([4, 20], prompt=2)
    losses = [signals.nll for signals in token_signals(model, rows)]
    assert [len(loss) for loss in losses] == [2, 18]
    expected = (losses[0].sum() + losses[1].sum()) / 20
    assert mean_nll(model, rows) == pytest.approx(expected, rel=1e-5)


def test_the_mean_of_rows_without_targets_is_not_a_number(make_model: Make) -> None:
    rows = [{"input_ids": [5, 6], "labels": [-100, -100]}]
    assert math.isnan(mean_nll(make_model(), rows))


@pytest.mark.parametrize(
    "lengths, batch_tokens, batches",
    [
        ([], 10, []),
        ([3, 5, 4], 100, [[1, 2, 0]]),
        ([3, 5, 4], 10, [[1, 2], [0]]),  # padded to 5: two rows are 10, three would be 15
        ([3, 5, 4], 9, [[1], [2, 0]]),
        ([30, 2], 10, [[0], [1]]),  # longer than the budget: alone
        ([4, 4], 8, [[0, 1]]),
    ],
)
def test_batches_hold_rows_of_like_length_under_the_budget(
    lengths: list[int], batch_tokens: int, batches: list[list[int]]
) -> None:
    assert list(length_batches(lengths, batch_tokens)) == batches
