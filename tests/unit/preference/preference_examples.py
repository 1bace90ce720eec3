"""Rows, batches and trainings of preferences that tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ytrainer_core.config import (
    DataConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    PreferenceConfig,
    TrainConfig,
)
from ytrainer_core.preference.batches import mixed_batches, pair_batches
from ytrainer_core.preference.columns import Batched, batched
from ytrainer_core.preference.kto import Preference, PreferenceTrainer
from ytrainer_core.preference.rows import PreferenceRow
from ytrainer_core.training.job import TrainJob

MAX_LENGTH = 32


def random_rows(number: int, seed: int = 0) -> list[PreferenceRow]:
    """Random tokens, liked and disliked by turns; answers of 3 to 6 tokens, all different."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 250, (length,), generator=generator).tolist()

    return [
        PreferenceRow(f"rows:{i}", ids(4 + i % 3), ids(3 + i % 4), i % 2 == 0)
        for i in range(number)
    ]


def rows_with(answers: Sequence[int], labels: Sequence[bool]) -> list[PreferenceRow]:
    """Rows whose answers are equal where their numbers are."""
    return [
        PreferenceRow(f"rows:{i}", [1, i], [answer], label)
        for i, (answer, label) in enumerate(zip(answers, labels, strict=True))
    ]


def dealt(rows: Sequence[PreferenceRow], loss: str = "kto", batch_size: int = 4) -> Batched:
    """The rows in batches as the stage makes them."""
    if loss == "dpo":
        return batched(rows, pair_batches(rows, batch_size, 0), kl=False)
    return batched(rows, mixed_batches(rows, batch_size, 0), kl=loss == "kto")


def preference(precomputed: bool = False, name: str = "base", **fields: Any) -> Preference:
    weights = fields.pop("weights", (1.0, 1.0))
    config = PreferenceConfig(**({"batch_size": 4} | fields))
    return Preference(config, weights, precomputed, name)


def preference_job(rank: int = 0, learning_rate: float = 1e-2, **train: Any) -> TrainJob:
    """Constant rate without warm-up, a log row per step, no checkpoints unless asked for."""
    optim = {"learning_rate": learning_rate, "lr_scheduler": "constant", "warmup_ratio": 0.0}
    return TrainJob(
        DataConfig(max_length=MAX_LENGTH),
        ObjectiveConfig(),
        OptimConfig(**optim),
        TrainConfig(**({"logging_steps": 1, "save_steps": 0} | train)),
        seed=7,
        lora=LoraConfig(rank=rank),
    )


def make_trainer(
    folder: Path, model: Any, tokenizer: Any, train: Batched, wanted: Preference, job: TrainJob
) -> PreferenceTrainer:
    """The trainer alone, with no callbacks of ours."""
    from ytrainer_core.preference.engine import trl_arguments

    return PreferenceTrainer(
        job=job,
        preference=wanted,
        train=train,
        held_out=None,
        model=model,
        args=trl_arguments(job, wanted, folder),
        processing_class=tokenizer,
    )
