"""The knobs that lower a training's memory, each with what it saves in the training at hand."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from ytrainer_core.objectives.projection import chunk_size
from ytrainer_core.training.memory import Plan, count, gib
from ytrainer_core.training.rehearsal import MicroBatch

_KNOBS: tuple[tuple[str, Any], ...] = (
    ("train.gradient_checkpointing", True),
    ("train.per_device_batch_size", 1),
    ("train.pack_length", "half"),
    ("train.micro_batch_tokens", "half"),
    ("objective.chunk_tokens", "quarter"),
    ("lora.rank", 16),
    ("model.dtype", "bfloat16"),
    ("model.quantization", "4bit"),
    ("optim.optimizer", "adafactor"),
    ("launch.zero", 3),
)
"""What may lower the memory, in no order: savings are counted for the training at hand."""

_WORTH_NAMING = 0.02
"""Least share of the peak that a knob must save to be named."""


@dataclass(frozen=True)
class Remedy:
    """A knob as it is typed, and the bytes that one process saves by it."""

    knob: str
    saves: float

    def __str__(self) -> str:
        return f"{self.knob} saves about {gib(self.saves)}"


def remedies(plan: Plan) -> list[Remedy]:
    """The knobs that lower this training's peak, the one that saves most first."""
    peak = count(plan).peak
    found = []
    for name, value in _KNOBS:
        changed = _turned(plan, name, value)
        if changed is None:
            continue
        knob, other = changed
        saves = peak - count(other).peak
        if saves > _WORTH_NAMING * peak:
            found.append(Remedy(knob, saves))
    return sorted(found, key=lambda remedy: -remedy.saves)


def _turned(plan: Plan, name: str, value: Any) -> tuple[str, Plan] | None:
    """(the knob as it is typed, the plan with it turned); None where it has no effect here."""
    job, train, batch = plan.job, plan.job.train, plan.batch
    trains = f"{name}={str(value).lower()}"
    if name == "train.gradient_checkpointing" and not train.gradient_checkpointing:
        return trains, _with(plan, "train", gradient_checkpointing=True)
    if name == "train.per_device_batch_size" and len(batch.packs) > 1:
        if train.micro_batch_tokens:
            return None
        largest = max(batch.packs, key=sum)
        return trains, dataclasses.replace(plan, batch=_only(batch, (largest,)))
    if name == "train.pack_length" and train.batching == "packed" and _longest(batch) > 64:
        half = _longest(batch) // 2
        return f"{name}={half}", dataclasses.replace(plan, batch=_cut(batch, half))
    if name == "train.micro_batch_tokens" and train.micro_batch_tokens and len(batch.packs) > 1:
        half = train.micro_batch_tokens // 2
        kept = batch.packs[: len(batch.packs) // 2]
        return f"{name}={half}", dataclasses.replace(plan, batch=_only(batch, kept))
    if name == "objective.chunk_tokens":
        vocabulary = plan.shape.get_text_config().vocab_size
        now = min(batch.targets, chunk_size(vocabulary, job.objective.chunk_tokens))
        return (
            (f"{name}={now // 4}", _with(plan, "objective", chunk_tokens=now // 4))
            if now >= 64
            else None
        )
    if name == "lora.rank" and plan.tunable is not False and not job.lora.rank:
        trains += "" if plan.tunable else " (not in pretraining)"
        lora = job.lora.model_copy(update={"rank": value})
        changed = dataclasses.replace(job, lora=lora)
        return trains, dataclasses.replace(plan, job=changed, weight_dtype=job.dtype)
    if name == "model.dtype" and plan.device == "cuda" and job.dtype == torch.float32:
        low = torch.bfloat16
        weights = low if job.lora.rank or job.deepspeed is not None else plan.weight_dtype
        changed = dataclasses.replace(job, dtype=low)
        return trains, dataclasses.replace(plan, job=changed, weight_dtype=weights)
    if name == "model.quantization" and job.lora.rank and not plan.quantized:
        has = importlib.util.find_spec("bitsandbytes") is not None
        return (trains, dataclasses.replace(plan, quantized=True)) if has else None
    if name == "optim.optimizer" and job.optim.optimizer != value:
        return trains, _with(plan, "optim", optimizer=value)
    if name == "launch.zero" and plan.launch.world_size > 1 and job.deepspeed is not None:
        settings = job.deepspeed | {"zero_optimization": {"stage": value}}
        return trains, dataclasses.replace(plan, job=dataclasses.replace(job, deepspeed=settings))
    return None


def _with(plan: Plan, section: str, **changes: Any) -> Plan:
    changed: dict[str, Any] = {section: getattr(plan.job, section).model_copy(update=changes)}
    return dataclasses.replace(plan, job=dataclasses.replace(plan.job, **changed))


def _longest(batch: MicroBatch) -> int:
    return max(map(sum, batch.packs))


def _only(batch: MicroBatch, packs: tuple[tuple[int, ...], ...]) -> MicroBatch:
    """A batch of these packs alone, with their share of the targets."""
    tokens = sum(map(sum, packs))
    return MicroBatch(packs, max(1, batch.targets * tokens // batch.tokens))


def _cut(batch: MicroBatch, capacity: int) -> MicroBatch:
    """A batch of the same packs, each cut to `capacity` tokens."""
    packs = []
    for pack in batch.packs:
        room, kept = capacity, []
        for length in pack:
            kept.append(min(length, room))
            room -= kept[-1]
            if not room:
                break
        packs.append(tuple(kept))
    return _only(batch, tuple(packs))
