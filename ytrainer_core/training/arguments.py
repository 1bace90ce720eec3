"""Our config in the words of transformers' Trainer."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from ytrainer_core.errors import ConfigError
from ytrainer_core.training.batches import Batches
from ytrainer_core.training.job import TrainJob

_BEST = {"loss": ("eval_loss", False), "accuracy": ("eval_accuracy", True)}
"""Early stopping's metric -> (name in the evaluation, whether greater is better)."""


def accumulation_steps(job: TrainJob, batches: Batches, processes: int) -> int:
    """Forward passes per optimizer step; automatic ones come nearest to the global batch."""
    if job.train.gradient_accumulation_steps:
        return job.train.gradient_accumulation_steps
    packs = batches.packs / len(batches) if batches.whole else job.train.per_device_batch_size
    return max(1, round(job.train.global_batch_size / (packs * processes)))


def training_arguments(
    job: TrainJob, batches: Batches, folder: Path, processes: int = 1
) -> TrainingArguments:
    """Everything that Trainer itself does for us; checkpoints go into `folder`.

    Raises ConfigError for an optimizer that transformers does not know.
    """
    return TrainingArguments(
        **argument_values(
            job,
            folder,
            batch_size=1 if batches.whole else job.train.per_device_batch_size,
            accumulation=accumulation_steps(job, batches, processes),
        )
    )


def argument_values(
    job: TrainJob, folder: Path, *, batch_size: int, accumulation: int
) -> dict[str, Any]:
    """The arguments by name, for TrainingArguments and what is built on it.

    batch_size: items per forward pass. accumulation: forward passes per optimizer step.
    """
    optim, train = job.optim, job.train
    if optim.optimizer not in list(OptimizerNames):
        near = difflib.get_close_matches(optim.optimizer, list(OptimizerNames), n=3, cutoff=0.3)
        raise ConfigError(
            f"optim.optimizer '{optim.optimizer}' is none that transformers knows. Near it: "
            f"{', '.join(near) or 'adamw_torch, adafactor, sgd'}."
        )
    on_gpu = torch.cuda.is_available()
    schedule_options: dict[str, dict[str, float]] = {
        "cosine": {"num_cycles": optim.cosine_waves},
        "polynomial": {"lr_end": optim.end_learning_rate, "power": optim.polynomial_power},
    }
    metric, greater = _BEST[train.early_stopping.metric]
    judged = bool(train.eval_steps)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps or -1,
        "learning_rate": optim.learning_rate,
        "optim": optim.optimizer,
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.adam_beta1,
        "adam_beta2": optim.adam_beta2,
        "adam_epsilon": optim.adam_epsilon,
        "max_grad_norm": optim.max_grad_norm,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(
            optim.lr_scheduler, optim.lr_scheduler
        ),
        "lr_scheduler_kwargs": schedule_options.get(optim.lr_scheduler, {}),
        "warmup_steps": optim.warmup_steps or optim.warmup_ratio,
        "logging_steps": train.logging_steps,
        "logging_nan_inf_filter": False,  # asks the device for every loss; we check at every log
        "eval_strategy": "steps" if judged else "no",
        "eval_steps": train.eval_steps or None,
        "save_strategy": "steps" if train.save_steps else "no",
        "save_steps": train.save_steps or 1,
        "save_total_limit": train.save_total_limit,
        "load_best_model_at_end": train.load_best_model,
        "metric_for_best_model": metric if judged else None,
        "greater_is_better": greater if judged else None,
        "neftune_noise_alpha": train.neftune_noise_alpha or None,
        "bf16": job.dtype == torch.bfloat16,
        "fp16": job.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
        "report_to": "none",  # ours: Reporter, and TensorBoard where asked for
        "disable_tqdm": True,
        "log_level": "error",  # a tied head is not missing from a checkpoint, for one
        "log_level_replica": "error",
        "seed": job.seed,
        "data_seed": job.seed,
        "deepspeed": job.deepspeed,
        "ddp_find_unused_parameters": False,
    }
