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
from ytrainer_core.scoring import forward
from ytrainer_core.scoring import signals as scoring_signals
from ytrainer_core.scoring.forward import length_batches
from ytrainer_core.scoring.signals import (
    expected_tokens,
    mean_nll,
    token_signals,
    without_prompt,
)

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
        assert signals.rank is None and signals.free_nll is None
        assert signals.positions.tolist() == list(range(2, len(row["labels"])))


def distributions(model: Any, row: dict[str, list[int]]) -> torch.Tensor:
    """Log-probabilities [targets, vocab] of one row alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    return logits.log_softmax(-1)[torch.tensor(row["labels"])[1:] != -100]


def test_ranks_and_top_probabilities_are_those_of_the_full_distribution(
    make_model: Make, make_rows: Make
) -> None:
    model, rows = make_model(), make_rows([5, 14, 9], prompt=2)
    for row, signals in zip(rows, token_signals(model, rows, ranks=True), strict=True):
        log_p = distributions(model, row)
        np.testing.assert_allclose(signals.top_prob, log_p.exp().amax(-1), rtol=1e-4)
        targets = torch.tensor(row["input_ids"])[signals.positions]
        greater = log_p > log_p.gather(1, targets[:, None])
        assert signals.rank is not None and signals.rank.dtype == np.int32
        assert signals.rank.tolist() == greater.sum(-1).tolist()


def test_an_adapter_counts_while_it_is_on_and_the_base_is_read_while_it_is_off(
    make_model: Make, make_rows: Make
) -> None:
    from peft import LoraConfig, get_peft_model

    rows = make_rows([6, 11])
    base = token_signals(make_model(), rows, ranks=True)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(make_model(), lora)
    tuned = token_signals(model, rows, ranks=True)
    with model.disable_adapter():
        off = token_signals(model, rows, ranks=True)
    merged = token_signals(model.merge_and_unload(), rows, ranks=True)
    for i in range(2):
        assert np.abs(tuned[i].nll - base[i].nll).max() > 0.1
        for found, expected in ((off[i], base[i]), (tuned[i], merged[i])):
            np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.top_prob, expected.top_prob, rtol=1e-4, atol=1e-5)
            assert found.rank is not None and expected.rank is not None
            assert found.rank.tolist() == expected.rank.tolist()


def shapes_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shape of every batch that goes through a model from now on."""
    seen: list[tuple[int, ...]] = []
    model_signals = scoring_signals.model_signals

    def seeing(model: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(input_ids.shape))
        return model_signals(model, input_ids, *args, **kwargs)

    monkeypatch.setattr(scoring_signals, "model_signals", seeing)
    return seen


def test_nothing_is_read_after_the_last_target_and_nothing_of_rows_without_one(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = make_model(), shapes_read(monkeypatch)
    rows = [
        {"input_ids": list(range(10, 20)), "labels": [-100] * 3 + [13, 14] + [-100] * 5},
        {"input_ids": list(range(10, 20)), "labels": [-100] * 10},
        {"input_ids": [10], "labels": [10]},
        {"input_ids": [], "labels": []},
    ]
    found = token_signals(model, rows)
    assert seen == [(1, 5)]
    assert [signals.positions.tolist() for signals in found] == [[3, 4], [], [], []]


@pytest.mark.parametrize("batch_tokens, shapes", [(8192, [(2, 9), (1, 9)]), (9, [(1, 9)] * 3)])
def test_a_batch_holds_no_more_than_asked_for_and_on_a_cpu_than_its_caches_hold(
    batch_tokens: int,
    shapes: list[tuple[int, int]],
    make_model: Make,
    make_rows: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "CPU_BATCH_TOKENS", 20)
    seen = shapes_read(monkeypatch)
    token_signals(make_model(), make_rows([9, 9, 9]), batch_tokens=batch_tokens)
    assert seen == shapes


@pytest.mark.parametrize("max_length", [0, 5])
def test_expected_tokens_are_the_likeliest_of_every_target_with_their_probabilities(
    max_length: int, make_model: Make, make_rows: Make
) -> None:
    model, (row,) = make_model(), make_rows([9], prompt=3)
    found = expected_tokens(model, row, 3, max_length)
    (signals,) = token_signals(model, [row], max_length=max_length)
    assert [len(top) for top in found] == [3] * 6
    assert [top[0][0] for top in found] == signals.expected.tolist()
    np.testing.assert_allclose([top[0][1] for top in found], signals.top_prob, rtol=1e-4)
    if not max_length:
        best = distributions(model, row).exp().topk(3)
        assert [[token for token, _ in top] for top in found] == best.indices.tolist()
        np.testing.assert_allclose([[p for _, p in top] for top in found], best.values, rtol=1e-4)


def test_a_row_without_targets_has_no_expected_tokens(make_model: Make) -> None:
    assert expected_tokens(make_model(), {"input_ids": [5, 6], "labels": [-100, -100]}) == []


@pytest.mark.parametrize("bos, kept", [(None, [7, 9]), (5, [5, 7, 9]), (6, [7, 9])])
def test_without_its_prompt_a_row_has_its_trained_tokens_and_a_bos_token(
    bos: int | None, kept: list[int]
) -> None:
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, -100, 9]}
    found = without_prompt(row, bos)
    assert list(found["input_ids"]) == kept
    assert list(found["labels"])[-2:] == [7, 9]


def test_a_model_that_breaks_is_put_back_to_training(
    make_model: Make, make_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(scoring_signals, "model_signals", breaking)
    model = make_model().train()
    with pytest.raises(RuntimeError, match="broken"):
        token_signals(model, make_rows([5]))
    assert model.training


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
