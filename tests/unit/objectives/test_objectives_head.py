"""Heads of every kind: scaled, capped, biased, adapted, copied; each as its model has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from objective_examples import plain_loss
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from tiny import SHAPE

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.attach import attach_objective, causal_lm, model_signals

Make = Callable[..., Any]
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.4},
    "granite": {"logits_scaling": 2.5},
    "llama": {"tie_word_embeddings": False},
}


def of_architecture(name: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPE, **SPECIAL, **ARCHITECTURES[name])
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def with_biased_head(make_model: Make) -> Any:
    model = make_model(tie_word_embeddings=False)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape))
    head.weight = model.lm_head.weight
    model.set_output_embeddings(head)
    return model


def with_lora(model: Any, **changes: Any) -> Any:
    """Adapters on head and queries, with weights as if already trained; no dropout."""
    torch.manual_seed(1)
    options = {"r": 3, "lora_alpha": 6, "target_modules": ["lm_head", "q_proj"]} | changes
    model = get_peft_model(model, PeftLoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


MODELS: dict[str, Callable[[Make], Any]] = {
    **{name: (lambda make_model, n=name: of_architecture(n)) for name in ARCHITECTURES},
    "tied": lambda make_model: make_model(),
    "untied": lambda make_model: make_model(tie_word_embeddings=False),
    "bias": with_biased_head,
    "lora": lambda make_model: with_lora(make_model(tie_word_embeddings=False)),
    "lora on a tied head": lambda make_model: with_lora(make_model()),
    "lora with biases": lambda make_model: with_lora(with_biased_head(make_model), lora_bias=True),
    "lora below a scale": lambda make_model: with_lora(of_architecture("cohere")),
    "lora below a cap": lambda make_model: with_lora(of_architecture("gemma2")),
    "copied head": lambda make_model: with_lora(
        make_model(tie_word_embeddings=False),
        target_modules=["q_proj"],
        modules_to_save=["lm_head"],
    ),
}


@pytest.fixture
def batch(make_rows: Make) -> dict[str, torch.Tensor]:
    """One row alone, so that the model's own forward needs no mask: 12 tokens, 10 targets."""
    return collate_packs([make_rows([12])], pad_token_id=0)


@pytest.mark.parametrize("name", ["cross_entropy", "nlirg", "eaft", "focal"])
@pytest.mark.parametrize("kind", MODELS)
def test_loss_and_every_gradient_are_those_of_the_models_own_logits(
    kind: str, name: str, make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model, other = MODELS[kind](make_model), MODELS[kind](make_model)
    config = ObjectiveConfig(name=name, chunk_tokens=4)
    logits = other(input_ids=batch["input_ids"], use_cache=False).logits[0, 1:-1]
    plain = plain_loss(logits, batch["labels"][0, 2:], config)
    (plain.loss / 10).backward()
    attach_objective(model, config)
    output = model(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.nll, plain.nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.weights, plain.weights, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, plain.loss / 10, rtol=1e-5, atol=1e-5)
    graded = 0
    for (key, found), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None, key
            continue
        graded += 1
        torch.testing.assert_close(
            found.grad, expected.grad, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert graded > 2


@pytest.mark.parametrize("kind", MODELS)
def test_signals_are_those_of_the_models_own_logits(
    kind: str, make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = MODELS[kind](make_model)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[0, 1:-1]
    distribution = torch.distributions.Categorical(logits=logits)
    signals = model_signals(model, batch["input_ids"], batch["labels"])
    nll = -distribution.log_prob(batch["labels"][0, 2:])
    torch.testing.assert_close(signals.nll, nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(signals.entropy, distribution.entropy(), rtol=1e-5, atol=1e-5)
    assert signals.top_token.tolist() == logits.argmax(-1).tolist()


def test_dropout_of_the_heads_adapter_is_used_in_training_and_changes_its_gradient(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = with_lora(make_model(tie_word_embeddings=False), lora_dropout=0.5)
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    assert torch.equal(model(**batch).nll, model(**batch).nll)
    model.train()
    first = model(**batch)
    assert not torch.equal(first.nll, model(**batch).nll)
    first.loss.backward()
    assert causal_lm(model).lm_head.lora_A["default"].weight.grad.abs().sum() > 0


def test_of_a_head_with_an_adapter_the_base_gets_no_gradient(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = with_lora(make_model(tie_word_embeddings=False))
    attach_objective(model, ObjectiveConfig())
    model(**batch).loss.backward()
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded and all("lora_" in name for name in graded)


def test_an_adapter_on_the_head_computes_under_autocast(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = with_lora(make_model(tie_word_embeddings=False))
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    exact = model(**batch).nll
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert 0 < (output.nll - exact).abs().max() < 0.5
    assert causal_lm(model).lm_head.lora_B["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["untied", "lora", "copied head"])
def test_the_loss_is_formed_inside_the_calls_of_the_modules_that_own_the_heads_weights(
    kind: str, make_model: Make, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ZeRO-3 and FSDP need it: they gather weights in hooks around a module's call."""
    from ytrainer_core.objectives import attach

    model = MODELS[kind](make_model)
    attach_objective(model, ObjectiveConfig())
    head = causal_lm(model).lm_head
    owners = {
        "untied": lambda: [head],
        "lora": lambda: [head.base_layer, head.lora_B["default"]],
        "copied head": lambda: [head.modules_to_save["default"]],
    }[kind]()
    inside: list[Any] = []
    for owner in owners:
        owner.register_forward_pre_hook(lambda module, args: inside.append(module))
        owner.register_forward_hook(lambda module, args, output: inside.remove(module))
    at_the_op = []
    fused = attach.linear_token_loss

    def spied(*args: Any, **kwargs: Any) -> Any:
        at_the_op.append(list(inside))
        return fused(*args, **kwargs)

    monkeypatch.setattr(attach, "linear_token_loss", spied)
    model(**batch).loss.backward()
    assert at_the_op == [owners] and inside == []


def test_an_ordinary_call_of_the_head_is_as_before(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    hidden = torch.randn(3, 32)
    before = model.lm_head(hidden)
    attach_objective(model, ObjectiveConfig())
    model(**batch).loss.backward()
    assert torch.equal(model.lm_head(hidden), before)
    assert "forward" not in model.lm_head.__dict__


def test_dora_on_the_head_is_refused_and_elsewhere_is_not(
    make_model: Make, batch: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ConfigError, match=r"Dora.*lm_head"):
        attach_objective(with_lora(make_model(), use_dora=True), ObjectiveConfig())
    model = with_lora(make_model(), use_dora=True, target_modules=["q_proj"])
    attach_objective(model, ObjectiveConfig())
    assert torch.isfinite(model(**batch).loss)


def test_a_head_that_is_not_linear_is_refused(make_model: Make) -> None:
    model = make_model(tie_word_embeddings=False)
    model.set_output_embeddings(torch.nn.Sequential(model.lm_head))
    with pytest.raises(ConfigError, match="Sequential"):
        attach_objective(model, ObjectiveConfig())
