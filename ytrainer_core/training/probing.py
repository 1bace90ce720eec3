"""How long a training would take: a few real micro-batches and a real optimizer step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from ytrainer_core.config import PretrainConfig, SftConfig
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.training.arguments import training_arguments
from ytrainer_core.training.batches import BatchCollator, Batches, SeededOrder
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.prepared import freeze, prepared
from ytrainer_core.training.scratch import new_model
from ytrainer_core.training.work import load_for_training, load_teacher

PROBE_SECONDS = 10.0
"""After so long no further micro-batch is begun."""

MICRO_BATCHES = 3
"""Micro-batches that a probe trains at most; the first only warms up, where there is another."""


@dataclass(frozen=True)
class Probe:
    """Seconds that one process takes. step: of a mean optimizer step, all of its micro-batches."""

    step: float
    tokens_per_second: float
    micro_batches: int

    def told(self, steps: int) -> str:
        """For people."""
        return (
            f"{duration(self.step * steps)}: {self.step:.3g} s per optimizer step, "
            f"{self.tokens_per_second:,.0f} tokens/s (measured over {self.micro_batches} "
            "micro-batches; loading, evaluation and checkpoints come on top)"
        )


def probe(
    config: SftConfig | PretrainConfig,
    job: TrainJob,
    batches: Batches,
    folder: Path | None,
    tokenizer: Any,
    accumulation: int,
) -> Probe | None:
    """Load the model, train a little of the corpus with it, and throw it away.

    folder: the base model's; None for a model from scratch. None under DeepSpeed or 4 bits,
    which one process alone does not show as they are.
    """
    if job.deepspeed is not None or not len(batches):
        return None
    if isinstance(config, PretrainConfig):
        model = new_model(config.architecture, tokenizer, config.seed)
    else:
        assert folder is not None
        model, _ = load_for_training(config, folder)
    freeze(model, job.train.freeze)
    size = 1 if batches.whole else job.train.per_device_batch_size
    order = list(SeededOrder(len(batches), shuffle=not job.ordered, seed=job.seed))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    with prepared(model, job, load_teacher(config)) as flat:
        model.train()
        collate = BatchCollator(tokenizer.pad_token_id, flat=flat)

        def micro_batch(number: int) -> dict[str, Any]:
            batch = collate([batches[i] for i in groups[number]])
            if OBJECTIVES[job.objective.name].base_nll:
                batch["token_weights"] = torch.ones(batch["labels"].shape)
            return batch

        made = map(micro_batch, range(min(MICRO_BATCHES, len(groups))))
        passes, optimizer_seconds = _train(model, _optimizer(model, job, batches), job, made)
    timed = passes[1:] or passes
    per_token = sum(seconds for _, seconds in timed) / sum(tokens for tokens, _ in timed)
    tokens = batches.tokens / len(groups) * accumulation  # of a mean optimizer step
    step = per_token * tokens + optimizer_seconds
    return Probe(step, tokens / step, len(timed))


def _train(
    model: Any, optimizer: Any, job: TrainJob, batches: Iterable[dict[str, Any]]
) -> tuple[list[tuple[int, float]], float]:
    """((tokens, seconds) of every micro-batch, seconds of an optimizer step)."""
    device = model.device
    low = job.dtype != torch.float32
    passes: list[tuple[int, float]] = []
    started = time.perf_counter()
    for batch in batches:
        begun = _now(device)
        tokens = batch.pop("real_tokens")
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        with torch.autocast(device.type, dtype=job.dtype if low else None, enabled=low):
            loss = model(**inputs).loss
        loss.backward()
        passes.append((tokens, _now(device) - begun))
        if time.perf_counter() - started > PROBE_SECONDS:
            break
    seconds = []
    for _ in range(2):  # the first one also makes the optimizer's state
        begun = _now(device)
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.optim.max_grad_norm or 1.0)
        optimizer.step()
        seconds.append(_now(device) - begun)
    return passes, min(seconds)


def _optimizer(model: Any, job: TrainJob, batches: Batches) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(job, batches, Path(folder))
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind([p for p in model.parameters() if p.requires_grad], **options)


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 7 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
