"""A preference training from batches to result: the trainer, the loop, the last measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from trl import KTOConfig as TrlConfig

from ytrainer_core.preference.columns import Batched
from ytrainer_core.preference.kto import Preference, PreferenceTrainer
from ytrainer_core.training.arguments import argument_values
from ytrainer_core.training.engine import compiled, named_failures, run_trainer
from ytrainer_core.training.flops import parameter_counts
from ytrainer_core.training.job import Log, TrainJob, TrainResult
from ytrainer_core.training.prepared import freeze

OUT_OF_MEMORY = (
    "In this order: a smaller preference.batch_size, train.gradient_checkpointing=true, "
    "preference.reference=precomputed, a smaller data.max_length, lora.rank > 0"
)
"""What to turn where memory runs out."""

_TRL_WITHOUT_KL = "apo_zero_unpaired"
"""The loss of TRL's that compares no row with another's answer; the loss itself is ours."""


def train_preference(
    model: Any,
    tokenizer: Any,
    train: Batched,
    held_out: Batched | None,
    job: TrainJob,
    preference: Preference,
    *,
    checkpoints: Path,
    log: Log,
    title: str = "preference tuning",
    keep_epoch: Callable[[int], None] = lambda epoch: None,
    save: Callable[[], None] = lambda: None,
    told: Sequence[tuple[str, str]] = (),
) -> TrainResult:
    """Train a model in place on batches of liked and disliked answers.

    checkpoints, keep_epoch, save: as of `training.engine.train`. told: lines of the summary.
    The history ends with the held-out rows' measurement, where there are any.
    Raises YTrainerError where the loss is not finite or memory runs out, Cancelled after a SIGTERM,
    when a checkpoint is written.
    """
    set_seed(job.seed)
    freeze(model, job.train.freeze)
    with contextlib.ExitStack() as stack:
        stack.enter_context(named_failures(lambda: OUT_OF_MEMORY))
        if job.train.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        if job.train.torch_compile:
            stack.enter_context(compiled(model))
        arguments = trl_arguments(job, preference, checkpoints)
        trainer, ran = run_trainer(
            lambda callbacks: PreferenceTrainer(
                job=job,
                preference=preference,
                train=train,
                held_out=held_out,
                model=model,
                args=arguments,
                processing_class=tokenizer,
                callbacks=callbacks,
            ),
            job,
            checkpoints=checkpoints,
            log=log,
            title=title,
            keep_epoch=keep_epoch,
        )
        if held_out and not _measured_last(trainer, job):
            trainer.evaluate()
    save()
    total, trained = parameter_counts(model)
    rate = trainer.tokens / trainer.seconds
    return TrainResult(
        steps=ran.steps,
        history=[dict(row) for row in trainer.state.log_history],
        nll_first=[],
        nll_last=[],
        seconds=trainer.seconds,
        resumed_from=ran.resumed_from,
        stopped_early=ran.steps < trainer.state.max_steps,
        trainable_parameters=trained,
        throughput=[
            *told,
            ("parameters", f"{total:,} ({trained:,} trained)"),
            ("tokens/s", f"{rate:,.0f}"),
        ],
        **trainer.totals(),
    )


def trl_arguments(job: TrainJob, preference: Preference, folder: Path) -> TrlConfig:
    """Everything that TRL and transformers do for us; checkpoints go into `folder`."""
    config = preference.config
    rows = config.batch_size * (2 if config.loss == "dpo" else 1)
    accumulation = job.train.gradient_accumulation_steps or max(
        1, round(job.train.global_batch_size / config.batch_size)
    )
    return TrlConfig(
        **argument_values(job, folder, batch_size=rows, accumulation=accumulation),
        loss_type="kto" if config.loss == "kto" else _TRL_WITHOUT_KL,
        beta=config.beta,
        max_length=job.data.max_length,
        precompute_ref_log_probs=preference.precomputed,
        gradient_checkpointing=False,  # done above, for the model that we hold
    )


def _measured_last(trainer: Any, job: TrainJob) -> bool:
    """Whether the last evaluation was of the weights as they are now."""
    evaluated = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
    return evaluated[-1:] == [trainer.state.global_step] and not job.train.load_best_model
