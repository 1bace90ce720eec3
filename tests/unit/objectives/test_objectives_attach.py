"""A model with an objective attached: labels in, the objective's loss out; else as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.attach import attach_objective, causal_lm, model_signals
from ytrainer_core.training.model import add_lora

Rows = Callable[..., list[dict[str, list[int]]]]


@pytest.fixture
def batch(make_rows: Rows) -> dict[str, torch.Tensor]:
    """Two packs of one row each, of 9 and 6 tokens: 7 + 4 targets."""
    return collate_packs([[row] for row in make_rows([9, 6])], pad_token_id=0)


@pytest.fixture
def expected_nll(
    make_rows: Rows, make_model: Callable[..., Any], plain_signals: Callable[..., Any]
) -> torch.Tensor:
    model = make_model()
    return torch.cat([plain_signals(model, row)[0] for row in make_rows([9, 6])])


@pytest.mark.parametrize("name", ["cross_entropy", "nlirg"])
def test_the_loss_is_the_weighted_mean_over_the_targets(
    name: str,
    make_model: Callable[..., Any],
    batch: dict[str, torch.Tensor],
    expected_nll: torch.Tensor,
) -> None:
    model, config = make_model(), ObjectiveConfig(name=name)
    attach_objective(model, config)
    output = model(**batch)
    weights = OBJECTIVES[name](expected_nll, config)
    torch.testing.assert_close(output.nll, expected_nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.weights, weights, rtol=1e-5, atol=1e-5)
    assert output.loss.item() == pytest.approx((weights * expected_nll).sum().item() / 11, rel=1e-5)


def test_the_denominator_is_that_of_the_global_batch_where_it_is_given(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    loss = model(**batch, num_items_in_batch=torch.tensor(44)).loss
    assert loss.item() == pytest.approx(expected_nll.sum().item() / 44, rel=1e-5)


def test_cross_entropy_equals_the_models_own_loss(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    (row,) = make_rows([12])
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    model = make_model()
    own = model(input_ids=ids, labels=labels).loss
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, own)


def test_gradients_reach_every_weight_as_they_do_without_chunks(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], make_rows: Rows
) -> None:
    """The head is tied to the embedding, whose gradient is the sum of both uses."""
    model, other = make_model(), make_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    attach_objective(model, ObjectiveConfig(name="cross_entropy", chunk_tokens=4))
    model(**batch).loss.backward()
    losses = []
    for row in make_rows([9, 6]):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        losses.append(other(input_ids=ids, labels=labels, num_items_in_batch=11).loss)
    sum(losses).backward()
    for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_without_labels_the_logits_are_as_before(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    model = make_model()
    ids = torch.tensor([make_rows([8])[0]["input_ids"]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        answer = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4)
        attach_objective(model, ObjectiveConfig())
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
        assert torch.equal(
            model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4), answer
        )


def test_autocast_computes_in_bf16_and_reduces_in_float32(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert output.nll.dtype == torch.float32
    assert 0 < (output.nll - expected_nll).abs().max() < 0.2  # bf16 was used, and is close
    assert model.lm_head.weight.grad.dtype == torch.float32


def test_a_loss_that_is_not_finite_is_refused_under_every_objective(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    for name in OBJECTIVES:
        model = make_model()
        model.model.norm.weight.data[0] = float("nan")
        attach_objective(model, ObjectiveConfig(name=name))
        with pytest.raises(ValueError, match="not finite"):
            model(**batch)


def test_adapters_are_seen_through_and_trained(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    base = make_model()
    model = add_lora(base, LoraConfig(rank=4))
    assert causal_lm(model) is base
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected_nll.mean().item(), rel=1e-5)
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == {name for name, p in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("target", ["lm_head", "q_proj"])
def test_a_head_with_an_adapter_is_refused_before_training(
    target: str, make_model: Callable[..., Any]
) -> None:
    model = add_lora(
        make_model(tie_word_embeddings=False), LoraConfig(rank=2, target_modules=(target,))
    )
    if target == "lm_head":
        with pytest.raises(ConfigError, match="lm_head"):
            attach_objective(model, ObjectiveConfig())
    else:
        attach_objective(model, ObjectiveConfig())


@pytest.mark.parametrize(
    "name, value, refused",
    [
        ("final_logit_softcapping", 30.0, True),
        ("final_logit_softcapping", None, False),
        ("logit_scale", 0.5, True),
        ("logits_scaling", 8.0, True),
        ("logits_scaling", 1.0, False),
    ],
)
def test_a_model_that_changes_its_logits_after_the_head_is_refused(
    name: str, value: float | None, refused: bool, make_model: Callable[..., Any]
) -> None:
    model = make_model()
    setattr(model.config, name, value)
    if refused:
        with pytest.raises(ConfigError, match=f"{name}="):
            attach_objective(model, ObjectiveConfig())
    else:
        attach_objective(model, ObjectiveConfig())


def test_signals_of_a_padded_batch_are_those_of_its_rows(
    make_model: Callable[..., Any],
    make_rows: Rows,
    batch: dict[str, torch.Tensor],
    plain_signals: Callable[..., Any],
) -> None:
    model = make_model()
    signals = model_signals(model, batch["input_ids"], batch["labels"])
    rows = [plain_signals(model, row) for row in make_rows([9, 6])]
    for found, parts in zip(
        (signals.nll, signals.entropy, signals.top_token), zip(*rows, strict=True), strict=True
    ):
        torch.testing.assert_close(found, torch.cat(parts), rtol=1e-5, atol=1e-5)
