"""What the processes of test_invariant_interruption do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from interrupted import Log, as_process
from tiny import SHAPE

from ytrainer_core.config import (
    ArchitectureConfig,
    DataConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.model import add_lora
from ytrainer_core.training.scratch import new_model, train_tokenizer

LENGTHS = [17, 32, 18, 31, 20, 29, 22]
"""Tokens of the rows, one pack each; two packs a step make four steps an epoch."""

PROMPT = 2
SAVE_STEPS = 3


def work(folder: Path, kind: str, steps: int) -> None:
    """Train with dropout, shuffled, at a falling rate."""

    def go(log: Log) -> Any:
        model, tokenizer = tiny_model(kind)
        train(model, tokenizer, tiny_rows(), tiny_job(steps), checkpoints=folder / "work", log=log)
        return model

    as_process(folder, go)


def tiny_model(kind: str) -> tuple[Any, Any]:
    shape = ArchitectureConfig.model_validate(SHAPE | {"num_hidden_layers": 1})
    tokenizer = train_tokenizer(["What is the answer to the question?"] * 9, shape)
    model = new_model(shape, tokenizer, 0)
    if kind == "lora":
        torch.manual_seed(0)
        model = add_lora(model, LoraConfig(rank=4, dropout=0.1))
    return model, tokenizer


def tiny_rows() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in LENGTHS:
        ids = torch.randint(3, 250, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * PROMPT + ids[PROMPT:]})
    return rows


def tiny_job(steps: int) -> TrainJob:
    return TrainJob(
        DataConfig(max_length=32),
        ObjectiveConfig(),
        OptimConfig(learning_rate=1e-3, lr_scheduler="cosine", warmup_steps=2),
        TrainConfig(
            max_steps=steps, save_steps=SAVE_STEPS, gradient_accumulation_steps=2, logging_steps=1
        ),
        seed=7,
    )
