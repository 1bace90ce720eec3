"""What goes into a training besides model and rows, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ytrainer_core.config import DataConfig, LoraConfig, ObjectiveConfig, OptimConfig, TrainConfig

Log = Callable[[Mapping[str, float], int], None]
"""log(metrics, step): where live metrics go."""


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

    attn_implementation: str = "auto"
    """As model.attn_implementation."""

    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=0))

    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's own settings where it runs the training."""


@dataclass(frozen=True)
class TrainResult:
    """What a training did, over all of its processes and starts.

    history: one dict per logged step. nll_first, nll_last: token losses (nats) of the first
    and last micro-batches. target_tokens: trained targets seen; tokens: all that went through
    the model, padding excluded. seconds: inside the loop. resumed_from: optimizer step.
    throughput: parameters, FLOPs per token, tokens per second and their like, for people.
    """

    steps: int
    history: list[dict[str, float]]
    nll_first: list[float]
    nll_last: list[float]
    target_tokens: int
    tokens: int
    seconds: float
    resumed_from: int
    stopped_early: bool = False
    trainable_parameters: int = 0
    throughput: list[tuple[str, str]] = field(default_factory=list)
