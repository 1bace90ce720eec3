"""FLOPs per token by hand and by torch's own counter; peaks; the summary's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ytrainer_core.config import ArchitectureConfig, LoraConfig
from ytrainer_core.config.presets import PRESETS
from ytrainer_core.training import flops
from ytrainer_core.training.flops import (
    Throughput,
    flops_per_token,
    mfu,
    parameter_counts,
    peak_flops,
    published_peak,
    throughput_summary,
)
from ytrainer_core.training.model import add_lora

MakeModel = Callable[..., Any]

# one layer: q and o 32 x 32, k and v 32 x 16, feed-forward 3 x 32 x 64
LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64


def shape_of(**numbers: Any) -> Any:
    """The transformers config of a Qwen3 shape."""
    from transformers import Qwen3Config

    config = ArchitectureConfig(**numbers)
    own = {"preset", "special_tokens", "chat_template"}
    return Qwen3Config(**config.model_dump(exclude=own))


# --- by hand -------------------------------------------------------------------------------------


def test_full_training_takes_six_operations_per_weight_and_causal_attention(
    make_model: MakeModel,
) -> None:
    model = make_model()
    head = 32 * model.config.vocab_size
    weights = 6 * (2 * LAYER + head)
    attention = 12 * 2 * 32 * 100 / 2  # 12 L d s/2
    assert flops_per_token(model, 100) == weights + attention


def test_only_tokens_with_a_label_reach_the_head(make_model: MakeModel) -> None:
    model = make_model()
    head = 6 * 32 * model.config.vocab_size
    saved = flops_per_token(model, 10) - flops_per_token(model, 10, targets_fraction=0.25)
    assert saved == pytest.approx(0.75 * head)


def test_a_shared_head_costs_as_much_as_one_of_its_own(make_model: MakeModel) -> None:
    tied, own = (make_model(tie_word_embeddings=tie) for tie in (True, False))
    assert flops_per_token(tied, 10) == flops_per_token(own, 10)


def test_a_frozen_weight_takes_no_gradient_of_its_own(make_model: MakeModel) -> None:
    """The embedding still learns, so gradients flow through everything."""
    model = make_model(tie_word_embeddings=False)
    full = flops_per_token(model, 0)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    assert flops_per_token(model, 0) == full - 2 * 32 * 64


def test_nothing_flows_back_below_the_first_trained_weight(make_model: MakeModel) -> None:
    model = make_model(tie_word_embeddings=False).requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    head = 32 * model.config.vocab_size
    attention = 4 * 2 * 32 * 100 / 2  # forward alone
    assert flops_per_token(model, 100) == 2 * 2 * LAYER + (2 + 2) * head + attention


def test_lora_takes_four_operations_per_weight_of_the_base(make_model: MakeModel) -> None:
    model = make_model(num_hidden_layers=12)
    full, bare = flops_per_token(model, 0), 4 * (12 * LAYER + 32 * model.config.vocab_size)
    adapted = flops_per_token(add_lora(model, LoraConfig(rank=1)), 0)
    adapters = 6 * 12 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))  # rank 1: in + out
    assert adapted == pytest.approx(bare + adapters, rel=0.02)  # nothing flows below the first
    assert full == pytest.approx(1.5 * bare)


def test_a_shape_costs_what_a_model_of_it_costs(make_model: MakeModel) -> None:
    model = make_model()
    assert flops_per_token(model.config, 64) == flops_per_token(model, 64)
    frozen = flops_per_token(model.config, 0, lora=True)
    assert frozen == 4 * (2 * LAYER + 32 * model.config.vocab_size)


def test_a_large_shape_is_counted_without_its_memory() -> None:
    """6 N over every weight but the 151,936 x 1024 of the embedding, which is the head."""
    cost = flops_per_token(shape_of(preset="600m"), 0)
    assert cost == pytest.approx(6 * PRESETS["600m"].parameters, rel=1e-3)


def test_of_a_mixture_of_experts_the_active_ones_count() -> None:
    from transformers import Qwen3MoeConfig

    def cost(active: int) -> float:
        return flops_per_token(
            Qwen3MoeConfig(
                vocab_size=64, hidden_size=32, intermediate_size=64, moe_intermediate_size=16,
                num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                num_experts=8, num_experts_per_tok=active,
            ),
            0,
        )  # fmt: skip

    one_expert = 3 * 32 * 16
    assert cost(3) - cost(1) == pytest.approx(6 * 2 * 2 * one_expert)


def test_a_sliding_window_bounds_what_a_token_sees() -> None:
    config = shape_of(preset="2m")
    config.sliding_window = 10
    config.layer_types = ["sliding_attention"] * 2 + ["full_attention"] * 2
    width = 4 * 48
    seen = flops_per_token(config, 1000) - flops_per_token(config, 0)
    assert seen == 12 * width * (2 * 10 + 2 * 500)


# --- by torch's counter --------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [8, 64])
@pytest.mark.parametrize("rank", [0, 4])
def test_torch_counts_the_same(rank: int, targets: int, make_model: MakeModel) -> None:
    """Its eager attention computes the masked half too: the keys of a document twice as long."""
    tokens = 64
    model = make_model(attention="eager", num_hidden_layers=6, hidden_size=64)
    if rank:
        model = add_lora(model, LoraConfig(rank=rank))
    inner = flops.causal_lm(model).train()
    ids = torch.randint(0, 290, (1, tokens), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state[:, -targets:]
        inner.lm_head(hidden).sum().backward()
    ours = flops_per_token(model, 2 * tokens, targets_fraction=targets / tokens) * tokens
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


# --- peaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA Riva 128", None),
    ],
)
def test_known_gpus_have_their_published_peak(name: str, teraflops: float | None) -> None:
    expected = None if teraflops is None else teraflops * 1e12
    assert published_peak(name, torch.bfloat16) == expected


def test_the_peak_of_float32_depends_on_tf32() -> None:
    name = "NVIDIA A100-SXM4-80GB"
    assert published_peak(name, torch.float32) == 19.5e12
    assert published_peak(name, torch.float32, tf32=True) == 156e12
    assert published_peak(name, torch.float64) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_is_measured_once_and_fast(dtype: torch.dtype) -> None:
    import time

    flops._measured_peak.cache_clear()
    started = time.perf_counter()
    peak = peak_flops("cpu", dtype)
    assert time.perf_counter() - started < 1.0  # 0.3 on an idle machine
    assert 1e8 < peak < 1e15
    assert peak_flops("cpu", dtype) == peak


# --- use -----------------------------------------------------------------------------------------


def test_mfu_is_the_rate_over_the_peak(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    monkeypatch.setattr(flops, "peak_flops", lambda *_: 4 * flops_per_token(model, 32))
    used = [mfu(model, Throughput(10, 10, 5.0, 32, processes)) for processes in (1, 2)]
    assert used == pytest.approx([0.5, 0.25])
    assert mfu(model, Throughput(0, 0, 0.0, 32)) == 0


def test_the_summary_says_what_was_trained_how_fast_and_of_which_peak(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add_lora(make_model(), LoraConfig(rank=2))
    cost = flops_per_token(model, 32, targets_fraction=0.5)
    monkeypatch.setattr(flops, "peak_flops", lambda *_: 2e9)
    told = throughput_summary(model, Throughput(10_000, 5_000, 4.0, 32))
    total, trained = parameter_counts(model)
    assert told == {
        "parameters": f"{total:,} ({trained:,} trained)",
        "FLOPs per token": f"{cost / 1e3:.3g} kFLOP",
        "tokens/s": "2,500",
        "MFU": f"{cost * 2500 / 2e9:.1%} of 2 GFLOP/s (CPU, measured)",
    }


def test_without_a_step_there_is_no_rate(make_model: MakeModel) -> None:
    told = throughput_summary(make_model(), Throughput(0, 0, 0.0, 32))
    assert set(told) == {"parameters", "FLOPs per token"}
