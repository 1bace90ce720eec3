"""What the processes of test_preference_interruption do."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch
from preference_examples import dealt, preference, preference_job, random_rows
from safetensors.torch import save_file
from tiny import SHAPE

from ytrainer_core.config import ArchitectureConfig, LoraConfig
from ytrainer_core.errors import Cancelled
from ytrainer_core.preference.engine import train_preference
from ytrainer_core.training.model import add_lora
from ytrainer_core.training.scratch import new_model, train_tokenizer

SAVE_STEPS = 3


def work(folder: Path, kind: str, steps: int) -> None:
    """Train, going on from the newest checkpoint; writes its steps, its weights at the end."""
    torch.set_num_threads(1)
    code = 1
    try:
        shape = ArchitectureConfig.model_validate(SHAPE | {"num_hidden_layers": 1})
        tokenizer = train_tokenizer(["What is the answer to the question?"] * 9, shape)
        model = new_model(shape, tokenizer, 0)
        if kind == "lora":
            torch.manual_seed(0)
            model = add_lora(model, LoraConfig(rank=4))

        def log(metrics: Mapping[str, float], step: int) -> None:
            (folder / "steps").write_text(str(step))

        batches = dealt(random_rows(13))
        job = preference_job(
            4 if kind == "lora" else 0, max_steps=steps, save_steps=SAVE_STEPS,
            gradient_accumulation_steps=2, eval_steps=7,
        )  # fmt: skip
        train_preference(
            model, tokenizer, batches, batches, job, preference(kind == "full"),
            checkpoints=folder / "work", log=log,
        )  # fmt: skip
        weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
        save_file(weights, folder / "weights.safetensors")
        code = 0
    except Cancelled as error:
        (folder / "said").write_text(str(error))
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
