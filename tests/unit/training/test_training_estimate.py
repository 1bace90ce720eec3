"""`ytrainer show` tells the steps and parameters that training then has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig, LoraConfig, ModelConfig, SftConfig, TrainConfig
from ytrainer_core.training.engine import train
from ytrainer_core.training.estimate import estimate, memory_parts
from ytrainer_core.training.model import add_lora


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> Callable[..., SftConfig]:
    """A corpus of five rows; with packs of 32 tokens each is one pack."""
    corpus, held_out = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    for path, rows in ((corpus, 5), (held_out, 1)):
        lines = [json.dumps({"text": f"{path.stem} row {i} " + "xyz" * 5}) for i in range(rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def make(rank: int = 0, **changes: Any) -> SftConfig:
        return SftConfig(
            model=ModelConfig(name_or_path=str(base_folder), dtype="float32"),
            data=DataConfig(train=str(corpus), validation=str(held_out), max_length=48),
            lora=LoraConfig(rank=rank),
            train=TrainConfig(save_steps=0, **changes),
        )

    return make


@pytest.mark.parametrize(
    "changes, steps",
    [
        ({"num_train_epochs": 1}, 5),
        ({"num_train_epochs": 3, "gradient_accumulation_steps": 2}, 9),  # 2 + 2 + 1 packs
        ({"num_train_epochs": 3, "per_device_batch_size": 2}, 9),
        (
            {"num_train_epochs": 2, "per_device_batch_size": 2, "gradient_accumulation_steps": 2},
            4,
        ),
        ({"num_train_epochs": 2.5}, 13),
        ({"max_steps": 4}, 4),
    ],
)
def test_the_steps_told_are_the_steps_trained(
    changes: dict[str, Any],
    steps: int,
    config: Callable[..., SftConfig],
    make_model: Callable[..., Any],
    make_rows: Callable[..., Any],
    make_job: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    told = estimate(config(**changes))
    assert told["optimizer steps"] == f"{steps} (5 packed samples)"
    result = train(
        make_model(),
        tokenizer,
        make_rows([30] * 5),
        make_job(max_length=48, **changes),
        checkpoints=tmp_path / "checkpoints",
        log=lambda metrics, step: None,
    )
    assert result.steps == steps


@pytest.mark.parametrize("rank", [0, 4])
def test_the_parameters_told_are_those_of_the_model(
    rank: int, config: Callable[..., SftConfig], make_model: Callable[..., Any]
) -> None:
    model = make_model()
    if rank:
        model = add_lora(model, LoraConfig(rank=rank))
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    told = estimate(config(rank))["trainable parameters"]
    assert told == f"{trainable:,} of {total:,} ({trainable / total:.2%})"


def test_memory_is_counted_by_bytes_per_number(
    config: Callable[..., SftConfig], make_model: Callable[..., Any]
) -> None:
    """Full training: 4 bytes of weight and gradient, 8 of optimizer state per parameter."""
    model = make_model()
    parts = memory_parts(model, config(), total=1000, trainable=1000, tokens=10)
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == (4000, 4000, 8000)
    entries = model.config.vocab_size
    assert parts["logits chunk"] == 10 * entries * 4 * 2
    # 18 widths of 32 and 3 of 64 per token and layer, two layers, 4 bytes
    assert parts["activations"] == 10 * (18 * 32 + 3 * 64) * 2 * 4
    low = memory_parts(
        model, config(gradient_checkpointing=True), total=1000, trainable=1000, tokens=10
    )
    assert low["activations"] == parts["activations"] / 2
