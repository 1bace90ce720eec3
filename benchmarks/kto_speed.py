"""Seconds of an optimizer step of KTO: `train_preference` beside TRL's KTOTrainer.

Both train the same model on the same tokenized rows in the same batches, in float32, without
evaluation, checkpoints and gradient checkpointing. TRL's other settings are its defaults.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kto_loss import tokenized
from benchmarks.kto_methods import ANSWERS_PER_STEP, LONGEST, LORA_RANK
from benchmarks.measure import Case, Figures

if TYPE_CHECKING:
    from ytrainer_core.preference.columns import Batched
    from ytrainer_core.preference.rows import PreferenceRow

LOG_STEPS = 4
"""Steps between two logged losses; the first of them are the warm-up, which is left out."""

LORA_RATE, FULL_RATE = 1e-4, 1e-6
LORA_ALPHA = 32


class Clock:
    """Seconds per step between the first and the last log."""

    def __init__(self) -> None:
        self.made = time.monotonic()
        self.ticks: list[tuple[int, float]] = []
        self.losses: list[float] = []

    def log(self, metrics: Any, step: int) -> None:
        """Take the time where a loss is logged."""
        if "loss" in metrics:
            self.ticks.append((step, time.monotonic()))
            self.losses.append(float(metrics["loss"]))

    def figures(self) -> Figures:
        """seconds_per_step; before: seconds from the beginning to the end of the warm-up."""
        (first, began), (last, ended) = self.ticks[0], self.ticks[-1]
        return {
            "seconds_per_step": (ended - began) / (last - first),
            "before": began - self.made,
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
        }


def measure_speed(case: Case, tokenizer: Any, rows: Sequence[PreferenceRow]) -> Figures:
    """Train once as the case says: system of ytrainer or trl, method lora or full, precomputed."""
    from ytrainer_core.preference.batches import mixed_batches
    from ytrainer_core.preference.columns import batched

    dealt = batched(rows, mixed_batches(rows, ANSWERS_PER_STEP, 0), kl=True)
    train = {"ytrainer": train_with_ytrainer, "trl": train_with_trl}[case["trainer"]]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["YTRAINER_HOME"] = scratch  # what is precomputed is neither found nor kept
        return train(case, tokenizer, dealt, Path(scratch) / "work").figures()


def train_with_ytrainer(case: Case, tokenizer: Any, dealt: Batched, folder: Path) -> Clock:
    """By the engine of the kto stage."""
    from ytrainer_core.config import (
        DataConfig,
        LoraConfig,
        ObjectiveConfig,
        OptimConfig,
        PreferenceConfig,
        TrainConfig,
    )
    from ytrainer_core.preference.engine import train_preference
    from ytrainer_core.preference.kto import Preference
    from ytrainer_core.training.job import TrainJob
    from ytrainer_core.training.model import add_lora

    lora = LoraConfig(rank=LORA_RANK if case["method"] == "lora" else 0, alpha=LORA_ALPHA)
    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(),
        OptimConfig(learning_rate=_rate(case), lr_scheduler="constant", warmup_ratio=0.0),
        TrainConfig(max_steps=case["steps"], logging_steps=LOG_STEPS, save_steps=0),
        seed=0,
        lora=lora,
    )
    model = _base(case)
    if lora.rank:
        model = add_lora(model, lora)
    config = PreferenceConfig(batch_size=ANSWERS_PER_STEP)
    clock = Clock()
    train_preference(
        model,
        tokenizer,
        dealt,
        None,
        job,
        Preference(config, (1.0, 1.0), case["precomputed"], str(folder)),
        checkpoints=folder,
        log=clock.log,
    )
    return clock


def train_with_trl(case: Case, tokenizer: Any, dealt: Batched, folder: Path) -> Clock:
    """By TRL; its reference is the adapter switched off, a second model, or precomputed."""
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import KTOConfig, KTOTrainer

    clock = Clock()

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            clock.log(logs, state.global_step)

    lora = None
    if case["method"] == "lora":
        lora = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    trainer = tokenized(KTOTrainer)(
        model=_base(case),
        args=KTOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=ANSWERS_PER_STEP,
            max_steps=case["steps"],
            learning_rate=_rate(case),
            lr_scheduler_type="constant",
            max_length=LONGEST,
            precompute_ref_log_probs=case["precomputed"],
            optim="adamw_torch_fused",
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            gradient_checkpointing=False,
            logging_steps=LOG_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dealt.rows,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[Ticking()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock


def _rate(case: Case) -> float:
    return LORA_RATE if case["method"] == "lora" else FULL_RATE


def _base(case: Case) -> Any:
    from ytrainer_core.config import ModelConfig
    from ytrainer_core.training.model import load_model

    return load_model(Path(case["base"]), ModelConfig(name_or_path=case["base"]))
