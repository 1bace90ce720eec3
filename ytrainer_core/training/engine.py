"""A training from rows to result: batches, attention, objective, loop, checkpoints.

What transformers' Trainer does well (schedules, accumulation, mixed precision, resume)
stays its work. Ours are the loss, the order of the rows, what is logged, and the seal
that makes a checkpoint count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from ytrainer_core.errors import Cancelled, YTrainerError
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.training import callbacks
from ytrainer_core.training.arguments import training_arguments
from ytrainer_core.training.batches import BatchCollator, Batches, TokenRow, build_batches
from ytrainer_core.training.checkpoints import newest_complete
from ytrainer_core.training.documents import check_isolation
from ytrainer_core.training.flops import Throughput, parameter_counts, throughput_summary
from ytrainer_core.training.job import Log, TrainJob, TrainResult
from ytrainer_core.training.prepared import freeze, prepared
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints, Uploads
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
    save: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Train a model in place on tokenized rows.

    checkpoints: folder of this piece of work's checkpoints; the newest complete one is
    continued from unless job.train.resume is never. teacher: the frozen model of a
    distillation. keep_epoch(n) is called after each epoch of job.train.save_epochs, save()
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
    with contextlib.ExitStack() as stack:
        stack.enter_context(named_failures(lambda: _advice(model, job, batches)))
        flat = stack.enter_context(prepared(model, job, teacher))
        if job.train.batching == "packed":
            for packed in filter(None, (model, teacher)):
                check_isolation(packed, flat=flat)
        if job.train.torch_compile:
            stack.enter_context(compiled(model))
        arguments = training_arguments(job, batches, checkpoints, _processes())
        trainer, ran = run_trainer(
            lambda callbacks: TokenTrainer(
                job=job,
                eval_rows=eval_rows,
                model=model,
                args=arguments,
                train_dataset=batches,
                data_collator=BatchCollator(tokenizer.pad_token_id, flat=flat),
                processing_class=tokenizer,
                callbacks=callbacks,
            ),
            job,
            checkpoints=checkpoints,
            log=log,
            title=title,
            keep_epoch=keep_epoch,
        )
        totals = trainer.totals()
    save()
    return TrainResult(
        steps=ran.steps,
        history=[dict(row) for row in trainer.state.log_history],
        nll_first=to_list(trainer.nll_first),
        nll_last=to_list(trainer.nll_last),
        seconds=trainer.seconds,
        resumed_from=ran.resumed_from,
        stopped_early=ran.steps < trainer.state.max_steps,
        trainable_parameters=parameter_counts(model)[1],
        throughput=list(
            throughput_summary(
                model,
                Throughput(
                    **totals,
                    seconds=trainer.seconds,
                    sequence_length=batches.context_length,
                    processes=_processes(),
                ),
                job.dtype,
            ).items()
        ),
        **totals,
    )


@dataclass(frozen=True)
class Ran:
    """steps: optimizer steps at the end. resumed_from: that of the checkpoint it began at, or 0."""

    steps: int
    resumed_from: int


def run_trainer(
    make: Callable[[list[Any]], Any],
    job: TrainJob,
    *,
    checkpoints: Path,
    log: Log,
    title: str,
    keep_epoch: Callable[[int], None],
) -> tuple[Any, Ran]:
    """Make a trainer with our callbacks and run it, from the newest complete checkpoint on.

    make: the trainer with these callbacks; besides what transformers' has, it has
    `start_from(checkpoint)`. Raises Cancelled after a SIGTERM, when a checkpoint is written.
    """
    resume_from = newest_complete(checkpoints) if job.train.resume != "never" else None
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(contextlib.closing(callbacks.Reporter(log, title)))
        trainer = make(
            [
                reporter,
                callbacks.KeepEpochs(job.train.save_epochs, keep_epoch),
                *callbacks.early_stopping(job.train),
                *callbacks.tensorboard(job.train, checkpoints.name),
            ]
        )
        trainer.remove_callback(PrinterCallback)
        stop = callbacks.StopOnSigterm(lambda up: callbacks.any_process(up, trainer.args.device))
        trainer.add_callback(stack.enter_context(stop))
        if job.train.checkpoint_to and trainer.is_world_process_zero():
            # after `stop`, so that a second SIGTERM does not cut the last upload off
            remote = RemoteCheckpoints.of(job.train, checkpoints.name)
            uploads = stack.enter_context(Uploads(remote))
            trainer.add_callback(callbacks.StoreCheckpoints(uploads))
        if resume_from:
            trainer.start_from(resume_from)
        output = trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if stop.stopped_at:
        raise Cancelled(
            f"stopped by SIGTERM after step {stop.stopped_at} of {trainer.state.max_steps}; a "
            "checkpoint is written. The same command continues from it."
        )
    resumed = int(resume_from.name.rsplit("-", 1)[-1]) if resume_from else 0
    return trainer, Ran(output.global_step, resumed)


@contextlib.contextmanager
def compiled(model: Any) -> Iterator[None]:
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
        from ytrainer_core.training.remedies import remedies

        found = remedies(plan_in_training(model, job, batches, _processes()))
    except Exception:  # advice must not hide what it is about
        found = []
    return f"For this training {'; '.join(map(str, found))}" if found else OUT_OF_MEMORY


@contextlib.contextmanager
def named_failures(advice: Callable[[], str]) -> Iterator[None]:
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
