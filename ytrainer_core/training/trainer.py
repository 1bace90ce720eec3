"""transformers' Trainer with our loss, our order of rows, and our counts.

What is logged and evaluated here is of all processes, and comparable between objectives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.attach import model_nll
from ytrainer_core.scoring.signals import token_signals
from ytrainer_core.training.batches import SeededOrder, TokenRow
from ytrainer_core.training.deepspeed import is_split
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.optimizer import OptimizerTrainer

_KEPT_BATCHES = 32
"""Micro-batches at the start and at the end whose token losses are kept for the report."""

COUNTERS_NAME = "ytrainer-counters.json"


class TokenTrainer(OptimizerTrainer):
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
                nlls.append(model_nll(self.model, **inputs))
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


def to_list(parts: Sequence[Tensor]) -> list[float]:
    """Tensors joined, as Python numbers."""
    return torch.cat([p.float().cpu() for p in parts]).tolist() if parts else []
