"""A training from rows to result: batches, attention, objective, loop, checkpoints.

What transformers' Trainer does well (schedules, accumulation, mixed precision, resume)
stays its work. Ours are the loss, the order of the rows, what is logged, and the seal
that makes a checkpoint count.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import Cancelled, ConfigError, YTrainerError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.attach import attach_objective, causal_lm, detach
from ytrainer_core.training import callbacks
from ytrainer_core.training.arguments import training_arguments
from ytrainer_core.training.batches import BatchCollator, Batches, TokenRow, build_batches
from ytrainer_core.training.checkpoints import newest_complete
from ytrainer_core.training.deepspeed import is_split
from ytrainer_core.training.documents import check_isolation, packed_attention
from ytrainer_core.training.flops import parameter_counts, throughput_summary
from ytrainer_core.training.job import Log, TrainJob, TrainResult
from ytrainer_core.training.trainer import TokenTrainer, to_list
from ytrainer_core.training.weighting import with_base_weights


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TokenRow],
    job: TrainJob,
    *,
    checkpoints: Path,
    log: Log,
    eval_rows: Sequence[TokenRow] = (),
    title: str = "training",
    teacher: Any = None,
    keep_epoch: Callable[[int], None] = lambda epoch: None,
    deliver: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Train a model in place on tokenized rows.

    checkpoints: folder of this piece of work's checkpoints; the newest complete one is
    continued from unless job.train.resume is never. teacher: the frozen model of a
    distillation. keep_epoch(n) is called after each epoch of job.train.save_epochs, deliver()
    at the end, while processes that share a model still hold it together; by all of them.
    Raises DataError where nothing would be trained, YTrainerError where the loss is not
    finite or memory runs out, Cancelled after a SIGTERM, when a checkpoint is written.
    """
    set_seed(job.seed)
    freeze(model, job.train.freeze)
    rows = with_base_weights(model, rows, job)
    batches = build_batches(
        rows, job.train, job.data.max_length, ordered=job.ordered, seed=job.seed
    )
    resume_from = newest_complete(checkpoints) if job.train.resume != "never" else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_named_failures(lambda: _advice(model, job, batches)))
        flat = stack.enter_context(packed_attention(model, job.attn_implementation))
        if teacher is not None:
            stack.enter_context(packed_attention(teacher, job.attn_implementation))
        if job.train.batching == "packed":
            for packed in filter(None, (model, teacher)):
                check_isolation(packed, flat=flat)
        stack.enter_context(objective_attached(model, job.objective, teacher))
        if job.train.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        if job.train.torch_compile:
            stack.enter_context(_compiled(model))
        reporter = stack.enter_context(contextlib.closing(callbacks.Reporter(log, title)))
        trainer = TokenTrainer(
            job=job,
            eval_rows=eval_rows,
            model=model,
            args=training_arguments(job, batches, checkpoints, _processes()),
            train_dataset=batches,
            data_collator=BatchCollator(tokenizer.pad_token_id, flat=flat),
            processing_class=tokenizer,
            callbacks=[
                reporter,
                callbacks.KeepEpochs(job.train.save_epochs, keep_epoch),
                *callbacks.early_stopping(job.train),
                *callbacks.tensorboard(job.train, checkpoints.name),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        stop = callbacks.StopOnSigterm(lambda up: callbacks.any_process(up, trainer.args.device))
        trainer.add_callback(stack.enter_context(stop))
        if resume_from:
            trainer.start_from(resume_from)
        output = trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        totals = trainer.totals()
    if stop.stopped_at:
        raise Cancelled(
            f"stopped by SIGTERM after step {stop.stopped_at} of {trainer.state.max_steps}; a "
            "checkpoint is written. The same command continues from it."
        )
    deliver()
    return TrainResult(
        steps=output.global_step,
        history=[dict(row) for row in trainer.state.log_history],
        nll_first=to_list(trainer.nll_first),
        nll_last=to_list(trainer.nll_last),
        seconds=trainer.seconds,
        resumed_from=int(resume_from.name.rsplit("-", 1)[-1]) if resume_from else 0,
        stopped_early=output.global_step < trainer.state.max_steps,
        trainable_parameters=parameter_counts(model)[1],
        throughput=list(
            throughput_summary(
                model,
                **totals,
                seconds=trainer.seconds,
                sequence_length=batches.context_length,
                dtype=job.dtype,
                processes=_processes(),
            ).items()
        ),
        **totals,
    )


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Take parameters out of the training, by shell patterns on their names.

    Raises ConfigError for a pattern that fits none, and where nothing is left to train.
    """
    named = dict(causal_lm(model).named_parameters())
    for pattern in patterns:
        fitting = fnmatch.filter(named, pattern)
        if not fitting:
            raise ConfigError(
                f"train.freeze '{pattern}' fits no parameter. The model has for example "
                f"{', '.join(list(named)[:3])}."
            )
        for name in fitting:
            named[name].requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("train.freeze leaves nothing to train. Freeze less.")


@contextlib.contextmanager
def objective_attached(model: Any, config: ObjectiveConfig, teacher: Any) -> Iterator[None]:
    """The objective under the model's forward while it trains."""
    reference = None
    if OBJECTIVES[config.name].reference and not hasattr(model, "disable_adapter"):
        if is_split(model):
            raise ConfigError(
                f"objective {config.name} keeps a copy of the base model, which ZeRO-3 has split "
                "over the processes. Take launch.zero=2, or lora.rank > 0."
            )
        reference = copy.deepcopy(model).requires_grad_(False).eval()
    attach_objective(model, config, teacher=teacher, reference=reference)
    try:
        yield
    finally:
        detach(model)


@contextlib.contextmanager
def _compiled(model: Any) -> Iterator[None]:
    """Each transformer block compiled by itself: one compilation serves them all."""
    blocks = causal_lm(model).get_decoder().layers
    for block in blocks:
        block.compile(dynamic=True)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


OUT_OF_MEMORY = (
    "In this order: train.per_device_batch_size=1, train.gradient_checkpointing=true, a smaller "
    "train.pack_length, a smaller objective.chunk_tokens, lora.rank > 0"
)
"""What to turn where it cannot be counted what each would save."""


def _advice(model: Any, job: TrainJob, batches: Batches) -> str:
    """The knobs that lower this training's memory, each with what it saves."""
    try:
        from ytrainer_core.training.estimate import plan_in_training
        from ytrainer_core.training.memory import remedies

        found = remedies(plan_in_training(model, job, batches, _processes()))
    except Exception:  # advice must not hide what it is about
        found = []
    return f"For this training {'; '.join(map(str, found))}" if found else OUT_OF_MEMORY


@contextlib.contextmanager
def _named_failures(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what a user can act on into errors with a remedy."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not on_gpu and not on_cpu:
            raise
        raise YTrainerError(
            f"{'the GPU' if on_gpu else 'this machine'} ran out of memory. {advice()}. "
            "`ytrainer show` tells what each part takes."
        ) from error
