"""Soft targets: a teacher to learn from, the base model to stay near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from objective_examples import plain_loss

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.attach import attach_objective, causal_lm
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]


@pytest.fixture
def batch(make_rows: Make) -> dict[str, torch.Tensor]:
    """One row of 12 tokens, 10 of them targets."""
    return collate_packs([make_rows([12])], pad_token_id=0)


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[targets, vocab], by the model's own forward."""
    return model(input_ids=batch["input_ids"], use_cache=False).logits[0, 1:-1]


def adapted(make_model: Make, **changes: Any) -> Any:
    """A model whose adapters already moved it."""
    model = add_lora(make_model(), LoraConfig(rank=4, dropout=changes.pop("dropout", 0.0)))
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def assert_equal_gradients(found: Any, expected: Any) -> None:
    graded = 0
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None:
            graded += 1
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    assert graded


@pytest.mark.parametrize("share, temperature", [(0.5, 1.0), (0.3, 2.0), (0.0, 3.0), (1.0, 1.0)])
def test_distillation_is_the_token_loss_and_the_divergence_from_the_teacher_in_shares(
    share: float, temperature: float, make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model, other = make_model(), make_model()
    teacher = make_model(seed=5, hidden_size=48, num_hidden_layers=3)
    config = ObjectiveConfig(
        name="nlirg",
        chunk_tokens=4,
        distillation={
            "teacher": "t",
            "token_loss_coefficient": share,
            "temperature": temperature,
        },
    )
    with torch.no_grad():
        reference = logits_of(teacher, batch)
    plain = plain_loss(
        logits_of(other, batch),
        batch["labels"][0, 2:],
        config,
        reference=reference,
        token_coefficient=share,
        coefficient=1 - share,
        temperature=temperature,
    )
    (plain.loss / 10).backward()
    attach_objective(model, config, teacher=teacher.train())
    output = model(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, plain.loss / 10, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.divergence, plain.divergence, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(model, other)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_asft_anchors_an_adapted_model_to_itself_without_adapters(
    training: bool, make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model, other, base = adapted(make_model), adapted(make_model), make_model()
    config = ObjectiveConfig(name="asft", asft={"kl_coefficient": 0.4}, chunk_tokens=3)
    plain = plain_loss(
        logits_of(other, batch),
        batch["labels"][0, 2:],
        config,
        reference=logits_of(base, batch).detach(),
        coefficient=0.4,
    )
    (plain.loss / 10).backward()
    attach_objective(model, config)
    output = model.train(training)(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, plain.loss / 10, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.divergence, plain.divergence, rtol=1e-5, atol=1e-5)
    assert output.divergence.mean() > 0.01
    assert_equal_gradients(model, other)


def test_asft_anchors_a_head_with_an_adapter_to_the_head_without(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = add_lora(
        make_model(tie_word_embeddings=False), LoraConfig(rank=2, target_modules=("lm_head",))
    )
    with torch.no_grad():
        base = logits_of(model, batch)
        torch.nn.init.normal_(causal_lm(model).lm_head.lora_B["default"].weight)
        now = logits_of(model, batch)
    expected = plain_loss(now, batch["labels"][0, 2:], ObjectiveConfig(), reference=base)
    attach_objective(model, ObjectiveConfig(name="asft"))
    output = model.eval()(**batch)
    torch.testing.assert_close(output.divergence, expected.divergence, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.nll, expected.nll, rtol=1e-5, atol=1e-5)


def test_asft_of_a_fully_trained_model_is_anchored_to_the_copy_it_is_given(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model, other, base = make_model(seed=3), make_model(seed=3), make_model()
    config = ObjectiveConfig(name="asft")
    plain = plain_loss(
        logits_of(other, batch),
        batch["labels"][0, 2:],
        config,
        reference=logits_of(base, batch).detach(),
        coefficient=0.05,
    )
    (plain.loss / 10).backward()
    attach_objective(model, config, reference=base)
    output = model(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, plain.loss / 10, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(model, other)


def test_the_reference_pass_leaves_modes_adapters_and_trainable_weights_as_they_were(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = adapted(make_model, dropout=0.3).train()
    frozen = next(p for name, p in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    before = [(p.requires_grad, p.detach().clone()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    attach_objective(model, ObjectiveConfig(name="asft"))
    first = model(**batch)
    second = model(**batch)
    assert [module.training for module in model.modules()] == modes
    for (needed, weight), parameter in zip(before, model.parameters(), strict=True):
        assert parameter.requires_grad == needed and torch.equal(parameter, weight)
    assert not torch.equal(first.nll, second.nll)  # dropout is on in the model in training
    assert not any(getattr(module, "_disable_adapters", False) for module in model.modules())


def test_gradient_checkpointing_recomputes_with_the_adapters_on(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model, plain = adapted(make_model), adapted(make_model)
    for each in (model, plain):
        attach_objective(each, ObjectiveConfig(name="asft"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()(**batch).loss.backward()
    plain(**batch).loss.backward()
    assert_equal_gradients(model, plain)


def test_asft_without_adapters_and_without_a_copy_of_the_base_is_refused(make_model: Make) -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        attach_objective(make_model(), ObjectiveConfig(name="asft"))
    without_anchor = ObjectiveConfig(name="asft", asft={"kl_coefficient": 0.0})
    attach_objective(make_model(), without_anchor)


def test_a_teacher_of_another_vocabulary_is_refused(make_model: Make) -> None:
    config = ObjectiveConfig(distillation={"teacher": "t"})
    teacher = make_model()
    teacher.resize_token_embeddings(310)
    with pytest.raises(ConfigError, match="310 tokens and the model 296"):
        attach_objective(make_model(), config, teacher=teacher)


def test_a_teacher_beside_an_anchor_is_refused(make_model: Make) -> None:
    config = ObjectiveConfig(name="asft", distillation={"teacher": "t"})
    with pytest.raises(ConfigError, match="kl_coefficient=0"):
        attach_objective(adapted(make_model), config, teacher=make_model())


def test_a_teacher_that_is_configured_must_be_given(make_model: Make) -> None:
    with pytest.raises(ValueError, match="teacher"):
        attach_objective(make_model(), ObjectiveConfig(distillation={"teacher": "t"}))
