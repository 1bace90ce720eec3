"""Attention within documents: what it gives is what each document gives alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.training.documents import (
    DOCUMENTS,
    check_isolation,
    document_attention,
    packed_attention,
)
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]
LENGTHS = [9, 14, 5, 11, 7]
FAMILIES = ["qwen3", "llama", "mistral sliding", "gemma3"]


def family(name: str) -> Any:
    """A tiny model with random weights; two layers, sixteen tokens' window where it has one."""
    import transformers as hf

    shape: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    match name:
        case "qwen3":
            return hf.Qwen3ForCausalLM(hf.Qwen3Config(**shape)).eval()
        case "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**shape)).eval()
        case "mistral sliding":
            return hf.MistralForCausalLM(hf.MistralConfig(**shape, sliding_window=4)).eval()
        case "gemma3":
            layers = {"layer_types": ["sliding_attention", "full_attention"]}
            config = hf.Gemma3TextConfig(**shape, sliding_window=4, **layers)
            return hf.Gemma3ForCausalLM(config).eval()
    raise AssertionError(name)


def flat(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    batch = collate_packs([rows], 0, documents=True)
    del batch["real_tokens"]
    return batch


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_a_documents_losses_are_those_it_has_alone(
    name: str, training: bool, make_rows: Make, plain_signals: Make
) -> None:
    """plain_signals runs each row by itself with the attention transformers gives the model."""
    model, rows = family(name), make_rows(LENGTHS)
    expected = torch.cat([plain_signals(model, row)[0] for row in rows])
    model.train(training)
    with packed_attention(model, "auto") as told:
        assert told and model.config._attn_implementation == DOCUMENTS
        attach_objective(model, ObjectiveConfig(name="cross_entropy"))
        nll = model(**flat(rows)).nll
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_sum_of_those_of_the_documents(name: str, make_rows: Make) -> None:
    rows = make_rows(LENGTHS)
    targets = sum(len(row["labels"]) - 2 for row in rows)
    packed, alone = family(name).train(), family(name).train()
    with packed_attention(packed, "auto"):
        attach_objective(packed, ObjectiveConfig(name="nlirg"))
        packed(**flat(rows)).loss.backward()
    attach_objective(alone, ObjectiveConfig(name="nlirg"))
    for row in rows:
        batch = collate_packs([[row]], 0)
        del batch["real_tokens"]
        alone(**batch, num_items_in_batch=targets).loss.backward()
    for (name_, got), expected in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name_)


def test_under_adapters_and_recomputed_activations_too(
    make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    """The recomputation runs in the backward pass, with the same documents."""
    rows, model = make_rows(LENGTHS), make_model()
    expected = torch.cat([plain_signals(model, row)[0] for row in rows])
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        adapted = add_lora(make_model(), LoraConfig(rank=2)).train()
        with packed_attention(adapted, "auto"):
            attach_objective(adapted, ObjectiveConfig(name="cross_entropy"))
            if checkpointed:
                adapted.gradient_checkpointing_enable({"use_reentrant": False})
                adapted.enable_input_require_grads()
            output = adapted(**flat(rows))
            output.loss.backward()
        torch.testing.assert_close(output.nll, expected, rtol=1e-5, atol=1e-5)
        grads.append([p.grad for p in adapted.parameters() if p.grad is not None])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=1e-6)


def test_generation_during_training_is_as_before(make_model: Make) -> None:
    """Calls without bounds, with padding on the left and a cache, take transformers' own way."""
    model = make_model()
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    options = {
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        "max_new_tokens": 6,
        "do_sample": False,
    }
    before = model.generate(ids, **options)
    with packed_attention(model, "auto"):
        assert torch.equal(model.generate(ids, **options), before)


def test_a_named_attention_is_left_as_it_is(make_model: Make) -> None:
    for name in ("sdpa", "eager"):
        model = make_model(attention=name)
        with packed_attention(model, name) as told:
            assert not told and model.config._attn_implementation == name
    with packed_attention(make_model(attention="eager"), "auto") as told:
        assert not told  # a model that was loaded so keeps it


def test_scores_that_the_model_caps_need_transformers_own_attention() -> None:
    import transformers as hf

    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = hf.Gemma2ForCausalLM(hf.Gemma2Config(**shape, **heads))
    before = model.config._attn_implementation
    with packed_attention(model, "auto") as told:
        assert not told and model.config._attn_implementation == before


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bounds", [True, False])
def test_models_with_attention_alone_pass_the_check(name: str, bounds: bool) -> None:
    model = family(name)
    with packed_attention(model, "auto" if bounds else "sdpa") as told:
        check_isolation(model, flat=told)


def test_a_recurrent_model_is_refused_with_the_way_out() -> None:
    import transformers as hf

    config = hf.MambaConfig(
        vocab_size=300, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.2
    )
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=r"mamba carries state.*length_grouped"):
        check_isolation(hf.MambaForCausalLM(config), flat=False)


def test_the_call_has_the_shapes_that_transformers_expects() -> None:
    query, key, value = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    output, weights = document_attention(
        torch.nn.Module(), query, key, value, None, cu_seq_lens_q=torch.tensor([0, 4, 6])
    )
    assert output.shape == (1, 6, 4, 8) and weights is None
    # a document's first token sees itself alone
    torch.testing.assert_close(output[0, 4], value[0, :, 4].repeat_interleave(2, 0))
