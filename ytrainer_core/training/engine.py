"""The training loop: transformers' Trainer with our objective, batches and checkpoints.

What Trainer does well (schedules, accumulation, mixed precision, resume) stays its
work. Ours are the loss, the order of the rows, what is logged, and the seal that
makes a checkpoint count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
from ytrainer_core.errors import ConfigError, YTrainerError
from ytrainer_core.files import home
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.signals import mean_nll
from ytrainer_core.training.batches import PackCollator, SeededOrder, TokenRow, build_packs
from ytrainer_core.training.checkpoints import newest_complete, seal

Log = Callable[[Mapping[str, float], int], None]
"""log(metrics, step): where live metrics go."""

_KEPT_BATCHES = 32
"""Micro-batches at the start and at the end whose token losses are kept for the report."""


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    history: one dict per logged step. nll_first, nll_last: token losses (nats) of the
    first and last micro-batches. tokens: trained targets seen, padding excluded.
    """

    steps: int
    history: list[dict[str, float]]
    nll_first: list[float]
    nll_last: list[float]
    target_tokens: int
    seconds: float
    resumed_from: int


@dataclass(frozen=True)
class TrainJob:
    """Everything a training needs besides the model."""

    data: DataConfig
    objective: ObjectiveConfig
    optim: OptimConfig
    train: TrainConfig
    seed: int
    dtype: torch.dtype = torch.float32
    """Precision of the computation; below float32 it is autocast."""

    ordered: bool = False
    """Keep the order of the rows (a curriculum) instead of shuffling every epoch."""


def training_arguments(job: TrainJob, folder: Path) -> TrainingArguments:
    """Our config in transformers' words."""
    optim, train = job.optim, job.train
    on_gpu = torch.cuda.is_available()
    schedule_options: dict[str, dict[str, float]] = {
        "cosine": {"num_cycles": optim.cosine_waves},
        "polynomial": {"lr_end": optim.end_learning_rate, "power": optim.polynomial_power},
    }
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=train.per_device_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps or -1,
        learning_rate=optim.learning_rate,
        optim=optim.optimizer,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.adam_beta1,
        adam_beta2=optim.adam_beta2,
        adam_epsilon=optim.adam_epsilon,
        max_grad_norm=optim.max_grad_norm,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(
            optim.lr_scheduler, optim.lr_scheduler
        ),
        lr_scheduler_kwargs=schedule_options.get(optim.lr_scheduler, {}),
        warmup_steps=optim.warmup_steps or optim.warmup_ratio,
        logging_steps=train.logging_steps,
        eval_strategy="steps" if train.eval_steps else "no",
        eval_steps=train.eval_steps or None,
        save_strategy="steps" if train.save_steps else "no",
        save_steps=train.save_steps or 1,
        save_total_limit=train.save_total_limit,
        bf16=job.dtype == torch.bfloat16,
        fp16=job.dtype == torch.float16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        report_to="none",  # ours: _Reporter, and TensorBoard where asked for
        disable_tqdm=True,
        seed=job.seed,
        data_seed=job.seed,
    )


class TokenTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss is the attached objective's and whose order is ours."""

    def __init__(self, *, job: TrainJob, eval_rows: Sequence[TokenRow], **kwargs: Any) -> None:
        super().__init__(eval_dataset=eval_rows, **kwargs)
        self.model_accepts_loss_kwargs = True  # the forward divides by num_items_in_batch itself
        self._job = job
        self._eval_rows = eval_rows
        self._window: list[tuple[Tensor, Tensor]] = []
        self._window_start = time.monotonic()
        self.nll_first: list[Tensor] = []
        self.nll_last: list[Tensor] = []
        self.target_tokens = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededOrder:
        return SeededOrder(
            len(train_dataset or self.train_dataset),
            shuffle=not self._job.ordered,
            seed=self._job.seed,
        )

    def compute_loss(  # type: ignore[no-untyped-def]
        self, model, inputs, return_outputs=False, num_items_in_batch=None
    ):
        """The objective's loss, scaled so that processes averaging gradients sum their tokens."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        self._remember(outputs.nll, outputs.weights)
        loss = outputs.loss * (
            self.accelerator.num_processes if num_items_in_batch is not None else 1
        )
        return (loss, outputs) if return_outputs else loss

    def training_step(  # type: ignore[no-untyped-def]
        self, model, inputs, num_items_in_batch=None
    ):
        """One micro-batch; after the last of a step, normalise by weights where asked."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._job.objective.normalization == "weights":
            self._step_weights = getattr(self, "_step_weights", 0.0) + self._window[-1][1].sum()
            if self.accelerator.sync_gradients:
                total = self.accelerator.reduce(self._step_weights, reduction="sum")
                factor = num_items_in_batch / total.clamp(min=torch.finfo(total.dtype).tiny)
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                torch._foreach_mul_(grads, factor)
                self._step_weights = 0.0
        return loss

    def _remember(self, nll: Tensor, weights: Tensor) -> None:
        self._window.append((nll, weights))
        self.target_tokens += nll.numel()
        if len(self.nll_first) < _KEPT_BATCHES:
            self.nll_first.append(nll)
        self.nll_last = [*self.nll_last[1 - _KEPT_BATCHES :], nll]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what only we know: the unweighted loss, the mean weight, target tokens per second."""
        if "loss" in logs and self._window:
            nll = torch.cat([n for n, _ in self._window])
            weights = torch.cat([w for _, w in self._window])
            now = time.monotonic()
            logs["nll"] = nll.mean().item()
            logs["mean_weight"] = weights.mean().item()
            logs["target_tokens_per_second"] = nll.numel() / (now - self._window_start)
            self._window, self._window_start = [], now
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        """Mean nll over the held-out rows, unweighted: comparable between objectives."""
        limit = self._job.data.max_length
        metrics = {"eval_loss": mean_nll(self.model, self._eval_rows, max_length=limit)}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Passes log rows on, moves the progress bar, seals checkpoints."""

    def __init__(self, log: Log, title: str) -> None:
        self._log, self._title, self._progress = log, title, contextlib.ExitStack()

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self._bar = self._progress.enter_context(Progress(self._title, state.max_steps))
        self._bar.advance(state.global_step)
        self._loss = ""

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self._bar.advance(note=self._loss)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers:
            self._loss = f"loss {numbers['loss']:.3f}"
        self._log(numbers, state.global_step)

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        self._progress.close()


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
) -> TrainResult:
    """Train a model in place on tokenized rows.

    checkpoints: folder of this piece of work's checkpoints; the newest complete one is
    continued from where job.train.resume says so. Raises DataError where nothing would
    be trained, YTrainerError where the loss is not finite or memory runs out.
    """
    set_seed(job.seed)
    packs = build_packs(rows, job.train, job.data.max_length)
    attach_objective(model, job.objective)
    if job.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    reporter = _Reporter(log, title)
    trainer = TokenTrainer(
        job=job,
        eval_rows=eval_rows,
        model=model,
        args=training_arguments(job, checkpoints),
        train_dataset=packs,
        data_collator=PackCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[reporter],
    )
    trainer.remove_callback(_printer())
    if job.train.tensorboard:
        trainer.add_callback(_tensorboard(checkpoints.name))
    resume_from = newest_complete(checkpoints) if job.train.resume else None
    started = time.monotonic()
    with _named_failures(), contextlib.closing(reporter):
        output = trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return TrainResult(
        steps=output.global_step,
        history=[dict(row) for row in trainer.state.log_history],
        nll_first=_to_list(trainer.nll_first),
        nll_last=_to_list(trainer.nll_last),
        target_tokens=trainer.target_tokens,
        seconds=time.monotonic() - started,
        resumed_from=int(resume_from.name.rsplit("-", 1)[-1]) if resume_from else 0,
    )


def _printer() -> type[TrainerCallback]:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback  # type: ignore[no-any-return]


def _tensorboard(key: str) -> TrainerCallback:
    """Event files below home()/tensorboard, one folder for each piece of work."""
    from transformers.integrations import TensorBoardCallback

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "train.tensorboard: the package is missing. pip install 'ytrainer[tensorboard]'."
        ) from error
    return TensorBoardCallback(SummaryWriter(str(home() / "tensorboard" / key)))


def _to_list(parts: list[Tensor]) -> list[float]:
    return torch.cat(parts).float().cpu().tolist() if parts else []


@contextlib.contextmanager
def _named_failures():  # type: ignore[no-untyped-def]
    """Turn what a user can act on into errors with a remedy."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise YTrainerError(
            "the GPU ran out of memory. In this order: train.per_device_batch_size=1, "
            "train.gradient_checkpointing=true, a smaller train.pack_length, a smaller "
            "objective.chunk_tokens, lora.rank > 0."
        ) from error
    except ValueError as error:
        if "not finite" not in str(error):
            raise
        raise YTrainerError(
            f"{error}. Lower optim.learning_rate, or compute in float32 (model.dtype=float32)."
        ) from error
