"""A packed row is blind to its neighbours: every token's loss is what it is without packing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]
LENGTHS = [9, 14, 5, 11, 7]


def nll_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    with torch.no_grad():
        return model(**batch).nll


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "packs",
    [[[0, 1, 2, 3, 4]], [[0, 1], [2, 3, 4]], [[3, 0], [4], [1, 2]], [[0], [1], [2], [3], [4]]],
    ids=["one pack", "two packs", "packs of unlike length", "padding only"],
)
@pytest.mark.parametrize("training", [False, True])
def test_packed_and_unpacked_rows_have_the_same_token_losses(
    attention: str,
    packs: list[list[int]],
    training: bool,
    make_model: Make,
    make_rows: Make,
    plain_signals: Make,
) -> None:
    model, rows = make_model(attention=attention), make_rows(LENGTHS)
    alone = [plain_signals(model, row)[0] for row in rows]
    model.train(training)
    batch = collate_packs([[rows[i] for i in pack] for pack in packs], pad_token_id=0)
    packed = nll_of(model, batch)
    expected = torch.cat([alone[i] for pack in packs for i in pack])
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_rows_of_this_file_would_show_a_leak(
    attention: str, make_model: Make, make_rows: Make
) -> None:
    """Without restarting positions the second row sees the first, and its losses move."""
    model, rows = make_model(attention=attention), make_rows(LENGTHS)
    batch = collate_packs([rows[:2]], pad_token_id=0)
    isolated = nll_of(model, batch)
    length = batch["input_ids"].shape[1]
    leaking = nll_of(model, {**batch, "position_ids": torch.arange(length)[None]})
    assert (isolated[7:] - leaking[7:]).abs().max() > 0.1


def test_a_row_may_begin_with_the_token_that_ended_the_one_before(
    make_model: Make, plain_signals: Make
) -> None:
    """Documents are told apart by position, not by a token's value."""
    model = make_model()
    row = {"input_ids": [7, 7, 7, 9], "labels": [-100, 7, 7, 9]}
    packed = nll_of(model, collate_packs([[row, row]], pad_token_id=7))
    alone = plain_signals(model, row)[0]
    torch.testing.assert_close(packed, torch.cat([alone, alone]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_of_a_pack_are_the_sum_of_those_of_its_rows(
    attention: str, make_model: Make, make_rows: Make
) -> None:
    rows = make_rows(LENGTHS)
    packed, alone = make_model(attention=attention), make_model(attention=attention)
    for model in (packed, alone):
        attach_objective(model, ObjectiveConfig(name="nlirg"))
        model.train()
    packed(**collate_packs([rows[:3], rows[3:]], pad_token_id=0)).loss.backward()
    targets = sum(len(row["labels"]) - 2 for row in rows)
    for row in rows:
        alone(**collate_packs([[row]], pad_token_id=0), num_items_in_batch=targets).loss.backward()
    for got, expected in zip(packed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_packs_stay_isolated_under_adapters_and_gradient_checkpointing(
    make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    rows = make_rows(LENGTHS)
    model = make_model()
    expected = torch.cat([plain_signals(model, row)[0] for row in rows])
    model = add_lora(model, LoraConfig(rank=2))
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    output = model(**collate_packs([rows], pad_token_id=0))
    output.loss.backward()
    torch.testing.assert_close(output.nll, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("teacher", [False, True])
def test_the_reference_of_a_pack_is_as_blind_as_the_model(
    attention: str, teacher: bool, make_model: Make, make_rows: Make
) -> None:
    """ASFT's base model or a teacher sees the same pack, and each document alone in it."""
    rows = make_rows(LENGTHS)
    model = make_model(attention=attention)
    other = make_model(seed=4, attention=attention)
    if teacher:
        attach_objective(model, ObjectiveConfig(distillation={"teacher": "another"}), teacher=other)
    else:
        attach_objective(model, ObjectiveConfig(name="asft"), reference=other)
    with torch.no_grad():
        packed = model(**collate_packs([rows[:3], rows[3:]], pad_token_id=0))
        alone = [model(**collate_packs([[row]], pad_token_id=0)) for row in rows]
    for name in ("nll", "weights", "divergence"):
        expected = torch.cat([output[name] for output in alone])
        torch.testing.assert_close(packed[name], expected, rtol=1e-5, atol=1e-5)
