"""`ytrainer show`: what a training would take, told before it runs.

Rows, tokens and steps are those of the training, made by the same functions; memory is
counted (`memory.py`); time is measured over a few micro-batches (`probing.py`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ytrainer_core.config import LaunchConfig, PretrainConfig, SftConfig
from ytrainer_core.data.corpus import row_texts
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.files import home
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.training.arguments import accumulation_steps
from ytrainer_core.training.batches import Batches, build_batches, count_targets
from ytrainer_core.training.flops import parameter_counts
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.memory import (
    GIB,
    Memory,
    Plan,
    available_bytes,
    count,
    gib,
    meta_model,
    needed_bytes,
)
from ytrainer_core.training.model import compute_dtype, load_tokenizer, locate
from ytrainer_core.training.probing import Probe, probe
from ytrainer_core.training.rehearsal import MicroBatch
from ytrainer_core.training.remedies import remedies
from ytrainer_core.training.scratch import model_shape, train_tokenizer
from ytrainer_core.training.work import training_job, with_replayed

_NAMED_KNOBS = 4
"""Knobs that are named where a training does not fit."""


@dataclass(frozen=True)
class Estimate:
    """What a training would take; memory in bytes of one process, `available` on its device."""

    rows: int
    targets: int
    samples: int
    steps: int
    accumulation: int
    batching: str
    trainable: int
    parameters: int
    plan: Plan
    memory: Memory
    available: float
    probe: Probe | None

    @property
    def fits(self) -> bool:
        """Whether the memory is there now."""
        return needed_bytes(self.plan, self.memory) <= self.available

    def summary(self) -> dict[str, str]:
        """For people: one row each."""
        made_of = f"{self.samples:,} {self.batching} samples"
        if self.accumulation > 1:
            made_of += f", {self.accumulation} micro-batches a step"
        rows = {
            "rows": f"{self.rows:,}",
            "trained tokens": f"{self.targets:,} per epoch",
            "optimizer steps": f"{self.steps:,} ({made_of})",
            "trainable parameters": f"{self.trainable:,} of {self.parameters:,} "
            f"({self.trainable / self.parameters:.2%})",
            "peak memory": self._memory(),
        }
        if not self.memory.exact:
            rows["memory is rough"] = "this architecture cannot be rehearsed; a formula was used"
        if not self.fits:
            turned = remedies(self.plan)[:_NAMED_KNOBS]
            rows["does not fit"] = f"{gib(self.available)} are free. " + (
                "; ".join(map(str, turned)) if turned else "No knob of this training helps."
            )
        if self.probe is not None:
            rows["time"] = self.probe.told(self.steps)
        elif not self.fits:
            rows["time"] = "not measured, since the training does not fit"
        return rows

    def _memory(self) -> str:
        parts = " · ".join(
            f"{name} {size / GIB:.2f}" for name, size in self.memory.parts.items() if size
        )
        text = f"{self.memory.peak / GIB:.2f} GiB: {parts}"
        processes = self.plan.launch.world_size
        return text + (f" (each of {processes} processes)" if processes > 1 else "")


def estimate(config: SftConfig | PretrainConfig, *, with_probe: bool = True) -> Estimate:
    """Rows, tokens, steps, parameters, memory and, with a probe, time of a training.

    The probe loads the model and trains a few micro-batches for about ten seconds, if the
    training fits; without it no weights are loaded. Pretraining learns its tokenizer first.
    """
    home().mkdir(parents=True, exist_ok=True)
    pretrains = isinstance(config, PretrainConfig)
    folder = None if pretrains else locate(config.model)
    trust = config.model.trust_remote_code
    with tempfile.TemporaryDirectory(dir=home(), prefix=".show.") as scratch:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust) if folder else None
        corpus = prepare_corpus(
            config.data, Path(scratch) / "dataset", tokenizer=tokenizer, seed=config.seed
        )
        if isinstance(config, PretrainConfig):
            tokenizer = train_tokenizer(row_texts(corpus.train), config.architecture)
        rows: Any = tokenize_dataset(corpus.train, tokenizer, config.data)
        rows = with_replayed(rows, corpus, tokenizer, config)
        targets = count_targets(rows)
        job = training_job(config, ordered=False)
        batches = build_batches(
            rows, job.train, job.data.max_length, ordered=job.ordered, seed=job.seed
        )
        before = float(psutil.Process().memory_info().rss)
        plan = training_plan(config, job, batches, folder, tokenizer)
        memory = count(plan, process=before)
        parameters, trainable = parameter_counts(meta_model(plan))
        available = available_bytes(plan.device)
        fits = needed_bytes(plan, memory) <= available
        measured = (
            probe(config, job, batches, folder, tokenizer, plan.accumulation)
            if with_probe and fits
            else None
        )
        return Estimate(
            rows=len(rows),
            targets=targets,
            samples=len(batches),
            steps=plan.steps,
            accumulation=plan.accumulation,
            batching=config.train.batching,
            trainable=trainable,
            parameters=parameters,
            plan=plan,
            memory=memory,
            available=available,
            probe=measured,
        )


def training_plan(
    config: SftConfig | PretrainConfig,
    job: TrainJob,
    batches: Batches,
    folder: Path | None,
    tokenizer: Any,
) -> Plan:
    """The plan of a stage's config. folder: the base model's; None for a model from scratch."""
    from transformers import AutoConfig

    trust = config.model.trust_remote_code
    processes = config.launch.world_size
    if isinstance(config, PretrainConfig):
        shape = model_shape(config.architecture, tokenizer)
    else:
        shape = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    teacher = config.objective.distillation.teacher
    if teacher:
        named = config.model.model_copy(update={"name_or_path": teacher, "revision": ""})
        teacher = AutoConfig.from_pretrained(locate(named), trust_remote_code=trust)
    whole = not job.lora.rank and config.launch.engine == "ddp"  # as load_for_training decides
    return Plan(
        shape=shape,
        job=job,
        batch=largest_micro_batch(batches, job),
        weight_dtype=torch.float32 if whole else compute_dtype(config.model.dtype),
        accumulation=accumulation_steps(job, batches, processes),
        steps=optimizer_steps(job, batches, processes),
        launch=config.launch,
        quantized=config.model.quantization != "none",
        teacher=teacher or None,
        file_bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder else 0,
        file_dtype=getattr(shape, "dtype", None) if folder else None,
        trust_remote_code=trust,
        tunable=isinstance(config, SftConfig),
    )


def plan_in_training(model: Any, job: TrainJob, batches: Batches, processes: int) -> Plan:
    """The plan of a model that is being trained, for advice when its memory runs out."""
    inner = causal_lm(model)
    first = next(inner.parameters())
    return Plan(
        shape=inner.config,
        job=job,
        batch=largest_micro_batch(batches, job),
        weight_dtype=first.dtype,
        accumulation=accumulation_steps(job, batches, processes),
        steps=optimizer_steps(job, batches, processes),
        launch=LaunchConfig(processes=processes),
        quantized=bool(getattr(inner, "is_loaded_in_4bit", False)),
        device=first.device.type,
    )


def optimizer_steps(job: TrainJob, batches: Batches, processes: int = 1) -> int:
    """Optimizer steps that the trainer takes if nothing stops it early."""
    if job.train.max_steps:
        return job.train.max_steps
    size = 1 if batches.whole else job.train.per_device_batch_size
    passes = math.ceil(len(batches) / (size * processes))  # of each process, in an epoch
    per_epoch = math.ceil(passes / accumulation_steps(job, batches, processes))
    return math.ceil(per_epoch * job.train.num_train_epochs)


def largest_micro_batch(batches: Batches, job: TrainJob) -> MicroBatch:
    """The most that one forward pass may meet, however the order falls."""
    size = 1 if batches.whole else job.train.per_device_batch_size
    items = range(len(batches))
    padded = [_padded(batches.lengths(i)) for i in items]
    chosen = sorted(items, key=lambda i: -padded[i])[:size]
    packs = tuple(tuple(pack) for i in chosen for pack in batches.lengths(i))
    return MicroBatch(packs, max(1, _targets(batches, chosen)))


def _padded(packs: Sequence[Sequence[int]]) -> int:
    return len(packs) * max(map(sum, packs))


def _targets(batches: Batches, items: Sequence[int]) -> int:
    """Labels of these items that are predicted; a document's first has nothing before it."""
    return sum(
        int(np.sum(np.asarray(piece["labels"])[1:] != IGNORED))
        for i in items
        for pack in batches[i]
        for piece in pack
    )
