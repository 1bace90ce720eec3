"""How much a model of a size takes to train, by method: the table of docs/cluster.md.

    python -m benchmarks.sizing

Memory is what `ytrainer show` tells: a micro-batch is gone through in shapes only, so neither
weights nor a GPU are needed, and none of it is a measurement. torch's build for CPUs cannot even
make the shape of a CUDA tensor, so that a CPU is rehearsed and what only a CPU has is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import table
from ytrainer_core.config import SftConfig, narrow
from ytrainer_core.training.flops import parameter_counts
from ytrainer_core.training.memory import GIB, Memory, Plan, count, gib, meta_model, optimizer_bytes
from ytrainer_core.training.rehearsal import MicroBatch
from ytrainer_core.training.work import training_job

_OF_ALL = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}


def _shape(
    width: int, feed_forward: int, layers: int, heads: int, *, tied: bool = False
) -> dict[str, Any]:
    return _OF_ALL | {
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "0.6B": _shape(1024, 3072, 28, 16, tied=True),
    "1.7B": _shape(2048, 6144, 28, 16, tied=True),
    "4B": _shape(2560, 9728, 36, 32, tied=True),
    "8B": _shape(4096, 12288, 36, 32),
    "14B": _shape(5120, 17408, 40, 40),
    "32B": _shape(5120, 25600, 64, 64),
}
"""Name -> dimensions of Qwen3's dense models, as their config.json has them; layers, heads and
tying are also in table 1 of the Qwen3 report (arXiv 2505.09388)."""

SPLIT = "all weights, ZeRO-3"
OVER = 8
"""Processes over which the table splits a model."""

METHODS: dict[str, dict[str, Any]] = {
    "LoRA, rank 16": {"lora": {"rank": 16}},
    "QLoRA, rank 16": {"lora": {"rank": 16}, "model": {"quantization": "4bit"}},
    "all weights": {"lora": {"rank": 0}},
    SPLIT: {"lora": {"rank": 0}, "launch": {"engine": "deepspeed", "zero": 3}},
}
"""Name -> what a config of sft says. All weights are float32 without DeepSpeed, and bfloat16 beside
DeepSpeed's float32 copy with it."""

COMMON: dict[str, Any] = {
    "model": {"dtype": "bfloat16"},
    "train": {"gradient_checkpointing": True, "gradient_accumulation_steps": 8},
}
TOKENS = 4096
"""Of a micro-batch: one document, trained on every token."""

GPU_GIB = 80
USABLE = 0.9
"""Share of a GPU that is planned with: CUDA's own, NCCL's buffers, what ZeRO-3 gathers for a moment
and the allocator's gaps are not counted."""

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
PROCESS_BYTES = 4 * GIB
"""Main memory of a process with CUDA before it loads a model; a round figure, no measurement."""

_CPU_ONLY = ("process", "heap", "weights' file")
_SPLIT_PARTS = ("weights", "gradients", "optimizer")
_FILE_BYTES = 2
"""Bytes per weight of the published files (bfloat16)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a training takes, in bytes.

    gpu: of each process at its peak. gpus: the least number of GPUs, 0 where no number helps.
    checkpoint: one of them. disk: base and checkpoints. main: main memory of one machine.
    """

    gpu: float
    gpus: int
    checkpoint: float
    disk: float
    main: float


def plan_of(
    shape: Mapping[str, Any], method: Mapping[str, Any], processes: int = 1, tokens: int = TOKENS
) -> Plan:
    """The plan of a training by a method, as `ytrainer show` makes it of a config."""
    from transformers import Qwen3Config

    tree = {name: {**COMMON.get(name, {}), **method.get(name, {})} for name in {*COMMON, *method}}
    tree["launch"] = {**tree.get("launch", {}), "processes": processes}
    config = narrow(SftConfig, tree)
    job = training_job(config, ordered=False)
    whole = not job.lora.rank and job.deepspeed is None
    return Plan(
        shape=Qwen3Config(**shape),
        job=job,
        batch=MicroBatch(((tokens,),), tokens),
        weight_dtype=torch.float32 if whole else job.dtype,
        accumulation=config.train.gradient_accumulation_steps,
        launch=config.launch,
        quantized=config.model.quantization != "none",
        device="cpu",
    )


def gpu_memory(plan: Plan) -> Memory:
    """What a process holds on its GPU at the peak.."""
    memory = count(plan)
    assert memory.exact, "Qwen3 can be rehearsed"
    parts = {name: size for name, size in memory.parts.items() if name not in _CPU_ONLY}
    return Memory(parts, memory.phase, memory.exact)


def needs(
    shape: Mapping[str, Any], method: Mapping[str, Any], *, gpu_bytes: float, tokens: int = TOKENS
) -> Needs:
    """What a training takes. gpu_bytes: of a GPU, of which USABLE is planned with."""
    splits = plan_of(shape, method).job.deepspeed is not None
    plan = plan_of(shape, method, OVER if splits else 1, tokens)
    memory, usable = gpu_memory(plan), USABLE * gpu_bytes

    def peak(processes: int) -> float:
        if processes == plan.launch.world_size:
            return memory.peak
        return gpu_memory(plan_of(shape, method, processes, tokens)).peak

    # where nothing is split, more GPUs hold the same again
    gpus = smallest_count(memory, peak, usable) if splits else int(memory.peak <= usable)
    parameters, trained = parameter_counts(meta_model(plan))
    file = float(_FILE_BYTES * (parameters - (trained if plan.job.lora.rank else 0)))
    checkpoint = checkpoint_bytes(plan, trained)
    standing = plan.job.train.save_total_limit + 1  # the oldest goes once the newest is written
    return Needs(
        gpu=memory.peak,
        gpus=gpus,
        checkpoint=checkpoint,
        disk=file + standing * checkpoint,
        main=main_memory(plan, file),
    )


def smallest_count(memory: Memory, peak: Callable[[int], float], usable: float) -> int:
    """The fewest GPUs over which a split training fits; 0 where none of GPU_COUNTS is enough.

    memory: of a process where there are OVER. peak: processes -> bytes of each.
    """
    divided = OVER * sum(memory.parts.get(name, 0.0) for name in _SPLIT_PARTS)
    least = memory.peak - divided / OVER
    for processes in GPU_COUNTS:
        if least + divided / processes > usable:
            continue  # this phase alone takes more, so nothing need be rehearsed
        if peak(processes) <= usable:
            return processes
    return 0


def checkpoint_bytes(plan: Plan, trained: int) -> float:
    """Of one checkpoint: the trained weights as they are saved, and the optimizer's state."""
    state, _ = optimizer_bytes(plan, trained)
    if plan.job.deepspeed is None:
        return 4.0 * trained + state  # adapters are float32 as well
    return plan.weight_dtype.itemsize * trained + state * plan.launch.world_size


def main_memory(plan: Plan, file: float) -> float:
    """Of a machine: its processes and what passes through on the way to the GPU. file: bytes."""
    if plan.job.deepspeed is not None:  # the file is mapped once; saving gathers it once
        return plan.launch.processes * PROCESS_BYTES + 2 * file
    if plan.quantized:
        return PROCESS_BYTES + file
    loaded = file * plan.weight_dtype.itemsize / _FILE_BYTES
    converted = plan.weight_dtype != torch.bfloat16
    return PROCESS_BYTES + loaded + (file if converted else 0.0)


def row(size: str, method: str, found: Needs) -> list[str]:
    """A line of the table."""
    return [
        size,
        method,
        gib(found.gpu),
        str(found.gpus or "none fits"),
        gib(found.checkpoint),
        gib(found.disk),
        gib(found.main),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; the largest models take half a minute each."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--sizes", default=",".join(SHAPES), help="names: 0.6B,8B")
    options.add_argument("--gpu", type=float, default=GPU_GIB, help="GiB of a GPU")
    chosen = options.parse_args(arguments)
    sizes = chosen.sizes.split(",")
    if unknown := [size for size in sizes if size not in SHAPES]:
        options.error(f"--sizes {', '.join(unknown)}: known are {', '.join(SHAPES)}")
    rows = []
    for size in sizes:
        for name, method in METHODS.items():
            started = time.monotonic()
            found = needs(SHAPES[size], method, gpu_bytes=chosen.gpu * GIB)
            rows.append(row(size, name, found))
            print(f"  {size}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    gpus = f"GPUs of {chosen.gpu:g} GiB"
    head = ["size", "method", "memory of a GPU", gpus, "checkpoint", "disk", "main memory"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
