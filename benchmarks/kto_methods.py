"""Ways to learn from feedback, each from the same start, for the same number of steps and answers.

A step sees ANSWERS_PER_STEP answers: rows of KTO and APO-zero, both answers of half as many pairs
of DPO, rows of SFT. All train a new LoRA with ytrainer's own engines and settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kto_tasks import Record, Shape

if TYPE_CHECKING:
    import datasets

    from ytrainer_core.preference.rows import PreferenceRow

ANSWERS_PER_STEP = 8
LORA_RANK = 16

LONGEST = 512
"""Longest row in tokens; what is longer loses the end of its answer."""


@dataclass(frozen=True)
class Method:
    """shape: of the feedback it learns from. loss: of `ytrainer kto`, empty for SFT."""

    shape: Shape
    loss: str = ""
    token_weighting: str = "none"


METHODS: dict[str, Method] = {
    "KTO": Method("unpaired", "kto"),
    "KTO, NLIRG": Method("unpaired", "kto", "nlirg"),
    "APO-zero": Method("unpaired", "apo_zero_unpaired"),
    "DPO, pairs": Method("paired", "dpo"),
    "SFT, liked": Method("liked"),
}


def rows_of(
    split: datasets.Dataset | Sequence[Record], tokenizer: Any, *, pairs: bool
) -> list[PreferenceRow]:
    """Records, or a corpus' split of them, as tokenized answers; of pairs the liked one first.

    A liked answer without a label counts as liked; rows whose prompt fills LONGEST are left out.
    """
    import datasets

    from ytrainer_core.config import DataConfig
    from ytrainer_core.preference.rows import preference_rows

    if not isinstance(split, datasets.Dataset):
        split = datasets.Dataset.from_list([{**row, "label": row["label"] or row["label"] is None}
                                            for row in split])  # fmt: skip
    config = DataConfig(max_length=LONGEST, on_too_long="truncate")
    return preference_rows(split, tokenizer, config, pairs=pairs).rows


def tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[PreferenceRow],
    method: Method,
    *,
    learning_rate: float,
    steps: int,
    seed: int,
    rank: int = LORA_RANK,
) -> Any:
    """The model with a new LoRA that has learned from the rows. rank 0: all weights, SFT only."""
    import torch

    from ytrainer_core.config import (
        DataConfig,
        LoraConfig,
        ObjectiveConfig,
        OptimConfig,
        TrainConfig,
    )
    from ytrainer_core.training.job import TrainJob
    from ytrainer_core.training.model import add_lora

    lora = LoraConfig(rank=rank)
    torch.manual_seed(seed)
    model = add_lora(model, lora) if rank else model
    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(name="cross_entropy"),
        OptimConfig(learning_rate=learning_rate),
        TrainConfig(
            max_steps=steps,
            batching="length_grouped",
            per_device_batch_size=ANSWERS_PER_STEP,
            save_steps=0,
        ),
        seed=seed,
        lora=lora,
    )
    with tempfile.TemporaryDirectory() as scratch:
        train = _train_preference if method.loss else _train_sft
        train(model, tokenizer, rows, method, job, Path(scratch))
    return model


def _train_sft(
    model: Any, tokenizer: Any, rows: Sequence[PreferenceRow], _: Method, job: Any, scratch: Path
) -> None:
    from ytrainer_core.training.engine import train

    train(
        model,
        tokenizer,
        [row.trained() for row in rows],
        job,
        checkpoints=scratch,
        log=lambda metrics, step: None,
    )


def _train_preference(
    model: Any,
    tokenizer: Any,
    rows: Sequence[PreferenceRow],
    method: Method,
    job: Any,
    scratch: Path,
) -> None:
    from ytrainer_core.config import PreferenceConfig
    from ytrainer_core.preference.batches import mixed_batches, pair_batches
    from ytrainer_core.preference.columns import batched
    from ytrainer_core.preference.engine import train_preference
    from ytrainer_core.preference.kto import Preference
    from ytrainer_core.preference.weights import class_weights

    pairs = method.loss == "dpo"
    config = PreferenceConfig.model_validate(
        {
            "loss": method.loss,
            "token_weighting": method.token_weighting,
            "batch_size": ANSWERS_PER_STEP // 2 if pairs else ANSWERS_PER_STEP,
        }
    )
    deal = pair_batches if pairs else mixed_batches
    liked = sum(row.label for row in rows)
    train_preference(
        model,
        tokenizer,
        batched(rows, deal(rows, config.batch_size, job.seed), kl=method.loss == "kto"),
        None,
        job,
        Preference(config, class_weights(config, liked, len(rows) - liked), False, ""),
        checkpoints=scratch,
        log=lambda metrics, step: None,
    )
