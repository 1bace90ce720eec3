"""Memory of a training before it runs.

A micro-batch is rehearsed in shapes (`rehearsal.py`); what outlives it (optimizer state, the
process itself) is counted by bytes. The peak is the greatest of loading, a micro-batch and
the optimizer's step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from ytrainer_core.config import LaunchConfig
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.objectives.projection import chunk_size
from ytrainer_core.training.flops import parameter_counts
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.model import add_lora
from ytrainer_core.training.prepared import freeze
from ytrainer_core.training.rehearsal import MicroBatch, Rehearsed, rehearse

GIB = 2**30

HEAP_SHARE = 1.4
"""What a CPU's heap keeps on top, per byte of linear weights: room that came and went within the
matrix products and that malloc does not give back. A measurement, not a derivation: 0.9 to 1.9
over full training and LoRA, float32 and bfloat16, with and without recomputation (glibc 2.36);
with every tensor in pages of its own (MALLOC_MMAP_THRESHOLD_=131072) it is nothing."""

LARGEST_ON_HEAP = 32 * 2**20
"""Bytes up to which malloc may use its heap (mallopt(3), M_MMAP_THRESHOLD on 64 bit)."""

TRAINER_BYTES = 64 * 2**20
"""What a process still loads once training starts on a CPU: trainer, kernels, work space."""

_STATE_BYTES = {
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "adafactor": 0.0,
    "sgd": 0.0,
    "lion_8bit": 1.0,
    "lion": 4.0,
    "adagrad": 4.0,
    "rmsprop": 4.0,
}
"""Optimizer -> bytes of state per trained parameter, where it is not AdamW's; Adafactor keeps a
row and a column of each matrix, which is next to nothing."""

_ADAMW_BYTES = 8.0
"""Two float32 moments."""

_QUANTIZED_BYTES = 0.516
"""Bytes per weight in 4 bits, with the constants of its blocks (QLoRA, arXiv 2305.14314)."""

_KEPT_WIDTHS = 18
"""Where a model cannot be rehearsed: widths of the residual stream that a transformer block keeps
per token; the feed-forward's three products are added apart."""


@dataclass(frozen=True)
class Plan:
    """A training as far as its memory is concerned.

    shape: the model's transformers config; teacher: that of a distillation's teacher, if any.
    batch: the largest micro-batch. weight_dtype: of the weights as they are loaded (below it
    is computed in job.dtype). steps: optimizer steps. file_bytes, file_dtype: the weights on
    disk. tunable: whether it could be a LoRA, None where that is not known. device: where it
    trains, "cpu" or "cuda".
    """

    shape: Any
    job: TrainJob
    batch: MicroBatch
    weight_dtype: torch.dtype
    accumulation: int = 1
    steps: int = 2
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    quantized: bool = False
    teacher: Any = None
    file_bytes: int = 0
    file_dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    tunable: bool | None = None
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Memory:
    """Bytes of each part at the peak of one process. exact: counted in a rehearsal."""

    parts: dict[str, float]
    phase: str
    exact: bool

    @property
    def peak(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


def meta_model(plan: Plan) -> Any:
    """The model of a plan without memory: adapters on, frozen what is frozen."""
    model = _on_meta(plan.shape, plan.weight_dtype, plan.trust_remote_code)
    if plan.job.lora.rank:
        lora = plan.job.lora.model_copy(update={"init": "default"})  # PiSSA takes weights apart
        model = add_lora(model, lora)
    freeze(model, plan.job.train.freeze)
    return model


def _on_meta(shape: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation="sdpa", trust_remote_code=trust_remote_code
        )


# --- counting ------------------------------------------------------------------------------------


def count(plan: Plan, process: float = 0.0) -> Memory:
    """The peak of one process. process: bytes that it holds before it loads the model."""
    model = meta_model(plan)
    _, trained = parameter_counts(model)
    moments, step = optimizer_bytes(plan, trained)
    copies = _whole_copies(plan, trained)
    saved = _saved_by_quantization(plan, model)
    file = plan.file_bytes if plan.device == "cpu" and _converted(plan) else 0
    heap = {"heap": _heap_bytes(model)} if plan.device == "cpu" else {}
    seen, exact = _micro_batch(plan, model)
    weights = _split(plan, max(0.0, seen.weights - saved), stage=3)
    gradients = _split(plan, seen.gradients, stage=2) + copies
    kept = _split(plan, 4.0 * trained, stage=2) + copies
    state = moments if plan.steps > 1 else 0.0
    own = {"process": process + TRAINER_BYTES} if plan.device == "cpu" else {}
    phases: dict[str, dict[str, float]] = {
        "loading": own | {"weights": weights, "weights' file": float(file)},
        "micro-batch": own
        | heap
        | {
            "weights": weights,
            "gradients": gradients,
            "optimizer": state,
            "activations": float(seen.activations),
            "logits chunk": float(seen.logits_chunk),
        },
        "optimizer step": own
        | heap
        | {"weights": weights, "gradients": kept, "optimizer": moments + step},
    }
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    return Memory(phases[phase], phase, exact)


def _micro_batch(plan: Plan, model: Any) -> tuple[Rehearsed, bool]:
    """(what lives at the greatest moment of a micro-batch, whether it could be rehearsed)."""
    teacher = None
    if plan.teacher is not None:
        teacher = _on_meta(plan.teacher, plan.job.dtype, plan.trust_remote_code)
        teacher.requires_grad_(False).eval()
    try:
        seen = rehearse(
            model,
            plan.job,
            plan.batch,
            device=plan.device,
            teacher=teacher,
            autocast=plan.job.deepspeed is None,
            accumulated=plan.accumulation > 1,
        )
    except Exception:  # whatever an architecture does that fake tensors cannot
        return by_formula(plan, meta_model(plan)), False
    return seen, True


def by_formula(plan: Plan, model: Any) -> Rehearsed:
    """What a rehearsal would count, roughly: for a model whose forward needs real values."""
    shape = model.config.get_text_config()
    tokens, width = plan.batch.tokens, torch.finfo(plan.job.dtype).bits // 8
    kept = _KEPT_WIDTHS * shape.hidden_size + 3 * shape.intermediate_size
    layers = 1 if plan.job.train.gradient_checkpointing else shape.num_hidden_layers
    chunk = min(tokens, chunk_size(shape.vocab_size, plan.job.objective.chunk_tokens))
    trained = parameter_counts(model)[1]
    head = causal_lm(model).get_output_embeddings().weight
    activations = tokens * kept * layers * width
    return Rehearsed(
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        gradients=4 * (trained + (head.numel() if head.requires_grad else 0)),
        activations=activations,
        logits_chunk=chunk * shape.vocab_size * 4,
    )


def optimizer_bytes(plan: Plan, trained: int) -> tuple[float, float]:
    """(bytes of optimizer state, bytes that its step takes besides), for `trained` parameters."""
    name = plan.job.optim.optimizer
    per_weight = _STATE_BYTES.get(name, _ADAMW_BYTES)
    if plan.job.deepspeed is not None and plan.weight_dtype != torch.float32:
        per_weight += 4  # DeepSpeed's own float32 copy
    state = _split(plan, per_weight * trained, stage=1)
    if plan.device == "cuda" and plan.job.deepspeed is not None and plan.launch.offload == "cpu":
        return 0.0, 0.0
    one_by_one = "fused" in name or name in ("sgd", "adafactor")
    return state, 0.0 if one_by_one else _split(plan, 4.0 * trained, stage=1)


def _split(plan: Plan, size: float, *, stage: int) -> float:
    """Bytes of one process where DeepSpeed splits this from ZeRO `stage` on."""
    zero = (plan.job.deepspeed or {}).get("zero_optimization", {}).get("stage", 0)
    return size / plan.launch.world_size if zero >= stage else size


def _whole_copies(plan: Plan, trained: int) -> float:
    """DDP's buckets, in which it exchanges gradients."""
    alone = plan.launch.world_size == 1 or plan.job.deepspeed is not None
    return 0.0 if alone else 4.0 * trained


def _saved_by_quantization(plan: Plan, model: Any) -> float:
    """Bytes that frozen linear layers do not take in 4 bits; the head stays as it is."""
    if not plan.quantized:
        return 0.0
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    weights = [
        module.weight
        for module in inner.get_decoder().modules()
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad
    ]
    return sum(weight.numel() * (weight.element_size() - _QUANTIZED_BYTES) for weight in weights)


def _heap_bytes(model: Any) -> float:
    """What malloc's heap keeps on top of all tensors."""
    sizes = [
        module.weight.numel() * module.weight.element_size()
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    return HEAP_SHARE * sum(size for size in sizes if size <= LARGEST_ON_HEAP)


def _converted(plan: Plan) -> bool:
    """Whether weights are read into tensors of another dtype than the file's, which is mapped."""
    return plan.file_dtype is not None and plan.file_dtype != plan.weight_dtype


# --- whether it fits -----------------------------------------------------------------------------


def available_bytes(device: str) -> float:
    """Memory to be had now: of the GPU, or of this machine within its control group's limit."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return min(float(psutil.virtual_memory().available), *_group_room())


def _group_room() -> Iterator[float]:
    """What control groups (a container, a batch system) leave this process."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            yield float(Path(limit).read_text()) - float(Path(used).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            yield math.inf


def needed_bytes(plan: Plan, memory: Memory) -> float:
    """Memory that the device of `available_bytes` must have: on a CPU, of its processes."""
    return memory.peak * (plan.launch.processes if plan.device == "cpu" else 1)


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
