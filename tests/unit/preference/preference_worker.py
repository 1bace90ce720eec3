"""What the processes of test_preference_interruption do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from interrupted import Log, as_process
from preference_examples import dealt, preference, preference_job, random_rows
from tiny import SHAPE

from ytrainer_core.config import ArchitectureConfig, LoraConfig
from ytrainer_core.preference.engine import train_preference
from ytrainer_core.training.model import add_lora
from ytrainer_core.training.scratch import new_model, train_tokenizer

SAVE_STEPS = 3


def work(folder: Path, kind: str, steps: int) -> None:
    """Train on dealt batches, with evaluations between the steps."""

    def go(log: Log) -> Any:
        shape = ArchitectureConfig.model_validate(SHAPE | {"num_hidden_layers": 1})
        tokenizer = train_tokenizer(["What is the answer to the question?"] * 9, shape)
        model = new_model(shape, tokenizer, 0)
        if kind == "lora":
            torch.manual_seed(0)
            model = add_lora(model, LoraConfig(rank=4))
        batches = dealt(random_rows(13))
        job = preference_job(
            4 if kind == "lora" else 0, max_steps=steps, save_steps=SAVE_STEPS,
            gradient_accumulation_steps=2, eval_steps=7,
        )  # fmt: skip
        train_preference(
            model, tokenizer, batches, batches, job, preference(kind == "full"),
            checkpoints=folder / "work", log=log,
        )  # fmt: skip
        return model

    as_process(folder, go)
