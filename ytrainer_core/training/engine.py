"""The training loop: transformers' Trainer with our objective, batches and checkpoints.

What Trainer does well (schedules, accumulation, mixed precision, resume) stays its
work. Ours are the loss, the order of the rows, what is logged, and the seal that
makes a checkpoint count.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import Cancelled, ConfigError, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.objectives import OBJECTIVES, base_weights
from ytrainer_core.objectives.attach import attach_objective, causal_lm, detach
from ytrainer_core.scoring.signals import token_signals
from ytrainer_core.training import callbacks
from ytrainer_core.training.arguments import training_arguments
from ytrainer_core.training.batches import (
    BatchCollator,
    Batches,
    SeededOrder,
    TokenRow,
    build_batches,
)
from ytrainer_core.training.checkpoints import newest_complete
from ytrainer_core.training.deepspeed import is_split
from ytrainer_core.training.documents import check_isolation, packed_attention
from ytrainer_core.training.flops import parameter_counts, throughput_summary
from ytrainer_core.training.job import Log, TrainJob, TrainResult

_KEPT_BATCHES = 32
"""Micro-batches at the start and at the end whose token losses are kept for the report."""

COUNTERS_NAME = "ytrainer-counters.json"


class TokenTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss is the attached objective's and whose order is ours."""

    def __init__(self, *, job: TrainJob, eval_rows: Sequence[TokenRow], **kwargs: Any) -> None:
        super().__init__(eval_dataset=eval_rows, **kwargs)
        self.model_accepts_loss_kwargs = True  # the forward divides by num_items_in_batch itself
        self._job = job
        self._eval_rows = eval_rows
        self._sums = self._zeros()
        self._window_start = self._started = time.monotonic()
        self._step_weights: Tensor | None = None
        self._median_nll: Tensor | None = None
        self.nll_first: list[Tensor] = []
        self.nll_last: list[Tensor] = []
        self.target_tokens = self.tokens = 0
        self.seconds_before = 0.0

    def _zeros(self) -> Tensor:
        """[4]: loss, nll and weight summed over the targets since the last log; their number."""
        return torch.zeros(4, dtype=torch.float64, device=self.args.device)

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededOrder:
        return SeededOrder(
            len(train_dataset or self.train_dataset),
            shuffle=not self._job.ordered,
            seed=self._job.seed,
            multiple=self._filled_to(),
        )

    def _filled_to(self) -> int:
        """Items of one forward pass of all processes; alone, a last short batch does no harm."""
        processes = self.accelerator.num_processes
        return processes * self.args.per_device_train_batch_size if processes > 1 else 1

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The configured optimizer; LoRA+ gives the B matrices a larger learning rate."""
        try:
            return self._create_optimizer(model)
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"optim.optimizer '{self._job.optim.optimizer}' is not to be had here: "
                f"{str(error).splitlines()[0]} adamw_torch needs nothing more."
            ) from error

    def _create_optimizer(self, model: Any) -> torch.optim.Optimizer:
        ratio = self._job.lora.plus_ratio
        if ratio == 1 or self.optimizer is not None:
            plain: torch.optim.Optimizer = super().create_optimizer(model)
            return plain
        from peft.optimizers import create_loraplus_optimizer

        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
        options |= {"weight_decay": self.args.weight_decay}
        self.optimizer: Any = create_loraplus_optimizer(
            causal_lm_or_peft(model or self.model), kind, loraplus_lr_ratio=ratio, **options
        )
        return self.optimizer  # type: ignore[no-any-return]

    def floating_point_ops(self, inputs: Any) -> int:
        """None: it would walk all parameters at every micro-batch; flops.py counts afterwards."""
        return 0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Micro-batches of a step; their median loss beforehand where the objective needs it."""
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        if OBJECTIVES[self._job.objective.name].batch_median and samples:
            self._median_nll = self._median(samples)
        return samples, num_items

    @torch.no_grad()
    def _median(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """Median loss over all targets of a global batch, without dropout: a forward pass more."""
        self.model.eval()
        nlls = []
        for inputs in samples:
            inputs = {k: v for k, v in self._prepare_inputs(inputs).items() if k != "real_tokens"}
            with self.compute_loss_context_manager():
                nlls.append(self.model(**inputs).nll)
        self.model.train()
        nll = torch.cat(nlls)
        everywhere = self.accelerator.pad_across_processes(nll, pad_index=float("nan"))
        median: Tensor = self.accelerator.gather(everywhere).nanmedian()
        return median

    def compute_loss(  # type: ignore[no-untyped-def]
        self, model, inputs, return_outputs=False, num_items_in_batch=None
    ):
        """The objective's loss, scaled so that processes averaging gradients sum their tokens."""
        self.tokens += inputs.pop("real_tokens")
        if self._median_nll is not None:
            inputs["median_nll"] = self._median_nll
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        self._remember(outputs.nll, outputs.weights)
        self._sums[0] += outputs.loss.detach() * (num_items_in_batch or 1)
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
            self._step_weights = self._last_weights + (
                0 if self._step_weights is None else self._step_weights
            )
            if self.accelerator.sync_gradients:
                total = self.accelerator.reduce(self._step_weights, reduction="sum")
                factor = num_items_in_batch / total.clamp(min=torch.finfo(total.dtype).tiny)
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                torch._foreach_mul_(grads, factor)
                self._step_weights = None
        return loss

    def _remember(self, nll: Tensor, weights: Tensor) -> None:
        self._last_weights = weights.sum()
        self._sums[1:3] += torch.stack([nll.sum(), self._last_weights])
        self._sums[3] += nll.numel()
        self.target_tokens += nll.numel()
        if len(self.nll_first) < _KEPT_BATCHES:
            self.nll_first.append(nll)
        self.nll_last = [*self.nll_last[1 - _KEPT_BATCHES :], nll]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what only we know: the unweighted loss, the mean weight, target tokens per second.

        The loss is that of all processes per target. Raises YTrainerError where it is not finite.
        """
        if "loss" in logs:
            total, nll, weights, targets = self.accelerator.reduce(self._sums).tolist()
            now = time.monotonic()
            logs["loss"] = total / max(1, targets)
            logs["nll"] = nll / max(1, targets)
            logs["mean_weight"] = weights / max(1, targets)
            logs["target_tokens_per_second"] = targets / (now - self._window_start)
            self._sums, self._window_start = self._zeros(), now
            if not np.isfinite(total):
                self._not_finite()
        super().log(logs, start_time)

    def _not_finite(self) -> None:
        raise YTrainerError(
            f"the loss is not finite at step {self.state.global_step}. Lower "
            "optim.learning_rate, or compute in float32 (model.dtype=float32)."
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        """Loss and accuracy over the held-out rows, unweighted: comparable between objectives."""
        mine = range(len(self._eval_rows))
        if not is_split(self.model):  # there, every forward pass takes all processes
            mine = mine[self.args.process_index :: self.accelerator.num_processes]
        held_out = [self._eval_rows[i] for i in mine]
        rows = token_signals(
            self.model, held_out, max_length=self._job.data.max_length, title="evaluation"
        )
        sums = torch.zeros(3, dtype=torch.float64)
        for row, signals in zip(held_out, rows, strict=True):
            right = np.asarray(row["labels"])[signals.positions] == signals.expected
            sums += torch.tensor(
                [signals.nll.sum(dtype=np.float64), right.sum(), right.size], dtype=torch.float64
            )
        nll, guessed, targets = self.accelerator.reduce(sums.to(self.args.device)).tolist()
        metrics = {
            "eval_loss": nll / targets if targets else float("nan"),
            "eval_accuracy": guessed / targets if targets else float("nan"),
        }
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @property
    def seconds(self) -> float:
        """Time inside the loop so far, over all starts."""
        return self.seconds_before + time.monotonic() - self._started

    def totals(self) -> dict[str, int]:
        """Targets and tokens of all processes so far, over all starts."""
        here = torch.tensor([self.target_tokens, self.tokens], device=self.args.device)
        targets, tokens = self.accelerator.reduce(here).tolist()
        return {"target_tokens": targets, "tokens": tokens}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Also what we counted; never a state that is not finite."""
        if not torch.isfinite(self._sums).all():
            self._not_finite()
        counters = self.totals() | {"seconds": self.seconds, "nll_first": to_list(self.nll_first)}
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_json(folder / COUNTERS_NAME, counters)
        super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()  # so that the seal covers what all have written

    def start_from(self, checkpoint: Path) -> None:
        """Continue counting where a checkpoint stopped; the totals count on the first process."""
        counters = json.loads((checkpoint / COUNTERS_NAME).read_text(encoding="utf-8"))
        self.seconds_before = counters["seconds"]
        self.nll_first = [torch.tensor(counters["nll_first"])] * bool(counters["nll_first"])
        self.nll_first += [torch.empty(0)] * (_KEPT_BATCHES - len(self.nll_first))
        if self.args.process_index == 0:
            self.target_tokens, self.tokens = counters["target_tokens"], counters["tokens"]


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


def with_base_weights(model: Any, rows: Sequence[TokenRow], job: TrainJob) -> Sequence[TokenRow]:
    """Rows with the token weights that the objective makes of the base model's losses, if any."""
    if not OBJECTIVES[job.objective.name].base_nll:
        return rows
    limit = job.train.pack_length or job.data.max_length
    signals = token_signals(model, rows, max_length=limit, title="base model's losses")
    weights = base_weights([row.nll for row in signals], job.objective)
    return _Weighted(rows, [s.positions for s in signals], weights)


class _Weighted(Sequence[TokenRow]):
    """Rows with a weight a token; targets without a weight of their own have 1."""

    def __init__(self, rows: Sequence[TokenRow], positions: Any, weights: Any) -> None:
        self._rows, self._positions, self._weights = rows, positions, weights

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        weights = np.asarray(row.get("weights", np.ones(len(row["labels"]))), dtype=np.float32)
        weights = weights.copy()
        weights[self._positions[index]] *= self._weights[index]
        labels, input_ids = np.asarray(row["labels"]), np.asarray(row["input_ids"])
        return {"input_ids": input_ids, "labels": labels, "weights": weights}


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


def causal_lm_or_peft(model: Any) -> Any:
    """The model below DDP's or DeepSpeed's wrapping, adapters still on it."""
    while hasattr(model, "module"):
        model = model.module
    return model


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def to_list(parts: Sequence[Tensor]) -> list[float]:
    """Tensors joined, as Python numbers."""
    return torch.cat([p.float().cpu() for p in parts]).tolist() if parts else []


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
