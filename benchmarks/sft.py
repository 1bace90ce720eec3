"""Claim: supervised fine-tuning sees more tokens a second than TRL's SFTTrainer, in less memory.

    python -m benchmarks.sft            CPU: speed, then memory with a vocabulary of 151,936
    python -m benchmarks.sft --gpu      Qwen3 shapes with random weights, LoRA, bf16, packs of 2,048

Both train the same model on the same tokenized GSM8K rows with plain cross-entropy on the answers,
AdamW (fused), LoRA r 16 on all linear layers or all weights, about 4,096 tokens an optimizer step.
Tokens are counted alike: all input tokens of the corpus, prompts included, padding excluded, over
the seconds of the training loop. Every case runs alone in a process; the cases take turns; all are
printed. Speed is that of each side's best case, memory that of each side's leanest case with about
2,048 tokens a forward pass. It needs `pip install 'ytrainer[bench]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.corpus import QWEN_VOCABULARY, SHAPES, VOCABULARY
from benchmarks.measure import MIB, BenchmarkError, Case, Figures
from benchmarks.sft_case import LEARNING_RATE, LONGEST, LORA_ALPHA, LORA_RANK

MODULE = "benchmarks.sft_case"
METHODS = ("lora", "full")
SYSTEMS = ("ytrainer", "trl")

STEP_TOKENS = 4096
"""Tokens of an optimizer step: 8 packs of 512, as TRL is fastest with on a CPU."""

UNPACKED_ROWS = 23
"""Rows of an optimizer step without packing: about STEP_TOKENS."""

MEMORY_PACK, MEMORY_ROWS = 2048, 11
"""Tokens of a forward pass in the memory part, as with models of that vocabulary on a GPU, and
the rows of the corpus that make about as many without packing."""

GPU_PACK, GPU_PACKS = 2048, 8
GPU_WARM_ROWS = 64
"""Rows trained before the clock starts, so that kernels are loaded and memory is reserved."""


def speed_cells() -> list[dict[str, Any]]:
    """Batch shapes of the first part; the same number of tokens a step."""
    return [
        {"system": "trl", "pack_length": 512, "batch": 1, "accumulation": STEP_TOKENS // 512},
        {"system": "trl", "pack_length": 0, "batch": 1, "accumulation": UNPACKED_ROWS},
        {"system": "ytrainer", "pack_length": 512, "batch": 1, "accumulation": STEP_TOKENS // 512},
        {"system": "ytrainer", "pack_length": 1024, "batch": 1, "accumulation": 4},
    ]


def memory_cells() -> list[dict[str, Any]]:
    """Batch shapes of the second part; `judged` are those of MEMORY_PACK tokens a forward pass."""
    large = {"pack_length": MEMORY_PACK, "batch": 1, "accumulation": STEP_TOKENS // MEMORY_PACK}
    small = {"pack_length": 512, "batch": 1, "accumulation": STEP_TOKENS // 512}
    rows = {"pack_length": 0, "batch": MEMORY_ROWS, "accumulation": large["accumulation"]}
    return [
        {"system": "trl", "judged": True, **large},
        {"system": "trl", "judged": True, **rows},
        {"system": "ytrainer", "judged": True, **large},
        {"system": "trl", **small},
        {"system": "ytrainer", **small},
    ]


def gpu_cells() -> list[dict[str, Any]]:
    """The GPU tier's cells; liger's layer kernels for TRL where they are installed."""
    shape = {"pack_length": GPU_PACK, "batch": 1, "accumulation": GPU_PACKS}
    cells: list[dict[str, Any]] = [{"system": "trl", **shape}, {"system": "ytrainer", **shape}]
    if importlib.util.find_spec("liger_kernel"):
        cells.insert(1, {"system": "trl", "liger": True, **shape})
    return cells


def cases_of(cells: Sequence[dict[str, Any]], methods: Sequence[str], **common: Any) -> list[Case]:
    """Cells x methods as cases with names."""
    cases: list[Case] = []
    for method in methods:
        for cell in cells:
            unit = f"packs of {cell['pack_length']:,}" if cell["pack_length"] else "rows"
            liger = " + liger" if cell.get("liger") else ""
            shape = f"{cell['batch']} x {cell['accumulation']} {unit}"
            name = f"{cell['system']}{liger}, {method}, {shape}"
            if "shape" in common and common["shape"] != "2.7m":
                name = f"{common['shape']}: {name}"
            cases.append({"name": name, "method": method, **cell, **common})
    return cases


def best(
    cases: Sequence[Case], found: dict[str, list[Figures]], system: str, method: str, key: str
) -> float:
    """The best median among a system's cases: most tokens a second, or least bytes."""
    choose = max if key == "tokens_per_second" else min
    return choose(
        measure.median(found[case["name"]], key)
        for case in cases
        if case["system"] == system and case["method"] == method
    )


def speed(options: argparse.Namespace, folder: Path) -> float:
    """Part one: tokens a second. Returns the smaller of the LoRA and the full ratio."""
    cases = cases_of(
        speed_cells(),
        METHODS,
        folder=str(folder),
        rows=options.rows,
        shape="2.7m",
        vocabulary=VOCABULARY,
    )
    found = measure.run_interleaved(MODULE, cases, options.repeats, options.threads)
    print(f"\nTokens per second, vocabulary {VOCABULARY:,}, {options.repeats} runs each\n")
    print(
        measure.table(
            ["case", "tokens/s: median (least - greatest)", "peak RSS, MiB", "loss: first, last"],
            [
                [
                    name,
                    measure.spread(runs, "tokens_per_second"),
                    f"{measure.median(runs, 'peak') / MIB:,.0f}",
                    _losses(runs),
                ]
                for name, runs in found.items()
            ],
        )
    )
    print()
    ratios = {}
    for method in METHODS:
        ours, theirs = (best(cases, found, s, method, "tokens_per_second") for s in SYSTEMS)
        ratios[method] = ours / theirs
        print(f"tokens/s, {method}: {ours:,.0f} / {theirs:,.0f} = {ratios[method]:.2f}")
    return min(ratios.values())


def memory(options: argparse.Namespace, folder: Path) -> None:
    """Part two: peak memory with Qwen3's vocabulary; one run each, memory hardly varies."""
    cases = cases_of(
        memory_cells(),
        METHODS,
        folder=str(folder),
        rows=options.memory_rows,
        shape="2.7m",
        vocabulary=QWEN_VOCABULARY,
    )
    found = measure.run_interleaved(MODULE, cases, 1, options.threads)
    print(
        f"\nMemory in MiB, vocabulary {QWEN_VOCABULARY:,}, "
        f"{options.memory_rows} rows, one run each\n"
    )
    print(
        measure.table(
            ["case", "peak RSS", "above imports and model", "tokens/s", "loss: first, last"],
            [
                [
                    name,
                    f"{run['peak'] / MIB:,.0f}",
                    f"{run['above'] / MIB:,.0f}",
                    f"{run['tokens_per_second']:,.0f}",
                    _losses([run]),
                ]
                for name, (run,) in found.items()
            ],
        )
    )
    print()
    worst = {"peak": 0.0, "above": 0.0}
    for key, what in (("peak", "peak RSS"), ("above", "above imports and model")):
        for method in METHODS:
            for judged in (True, False):
                cells = [case for case in cases if case.get("judged", False) is judged]
                ours, theirs = (best(cells, found, s, method, key) for s in SYSTEMS)
                tokens = f"{MEMORY_PACK:,}" if judged else "512"
                print(
                    f"{what}, {method}, {tokens} tokens a forward pass: "
                    f"{ours / MIB:,.0f} / {theirs / MIB:,.0f} = {ours / theirs:.2f}"
                )
                if judged:
                    worst[key] = max(worst[key], ours / theirs)
    print(
        f"\nmemory ratio: {worst['peak']:.2f} peak RSS, "
        f"{worst['above']:.2f} above imports and model"
    )


def gpu(options: argparse.Namespace, folder: Path) -> float:
    """The GPU tier: LoRA on Qwen3 shapes. Returns the smallest ratio over the shapes."""
    ratios = []
    for shape in options.shapes:
        cases = cases_of(
            gpu_cells(),
            ["lora"],
            folder=str(folder),
            rows=options.rows,
            shape=shape,
            vocabulary=QWEN_VOCABULARY,
            bf16=True,
            warm_rows=GPU_WARM_ROWS,
        )
        found = measure.run_interleaved(MODULE, cases, options.repeats, options.threads)
        print()
        print(
            measure.table(
                ["case", "tokens/s", "peak GPU memory, GiB", "MFU", "loss: first, last"],
                [
                    [
                        name,
                        measure.spread(runs, "tokens_per_second"),
                        f"{measure.median(runs, 'gpu_peak') / 2**30:.1f}",
                        f"{measure.median(runs, 'mfu'):.1%}",
                        _losses(runs),
                    ]
                    for name, runs in found.items()
                ],
            )
        )
        ours, theirs = (
            best(cases, found, system, "lora", "tokens_per_second") for system in SYSTEMS
        )
        ratios.append(ours / theirs)
    return min(ratios)


def _losses(runs: Sequence[Figures]) -> str:
    first, last = (measure.median(runs, key) for key in ("first_loss", "last_loss"))
    return f"{first:.3f}, {last:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the settings, every figure and the ratios."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--rows", type=int, help="GSM8K rows: 512, with --gpu 4,096")
    options.add_argument("--memory-rows", type=int, default=24, help="rows of the memory part")
    options.add_argument("--gpu", action="store_true", help="the GPU tier instead")
    options.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["0.6b", "1.7b", "4b", "8b"]
    )
    chosen = options.parse_args(arguments)
    measure.require("trl")
    chosen.rows = chosen.rows or (4096 if chosen.gpu else 512)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = max(chosen.rows, chosen.memory_rows)
        case = {"name": "prepare", "system": "prepare", "folder": scratch, "rows": rows}
        corpus = measure.run_case(MODULE, {**case, "data": str(chosen.data)}, chosen.threads)
        if chosen.gpu and not corpus["cuda"]:
            raise BenchmarkError("--gpu: torch sees no CUDA device here. Leave --gpu out.")
        print(measure.table(["setting", "value"], _settings(chosen, corpus)))
        if chosen.gpu:
            ratio = gpu(chosen, folder)
        else:
            ratio = speed(chosen, folder)
            memory(chosen, folder)
        print(f"ratio: {ratio:.2f}")


def _settings(options: argparse.Namespace, corpus: Figures) -> list[tuple[str, str]]:
    precision = "bf16" if options.gpu else "fp32"
    shapes = ", ".join(options.shapes) if options.gpu else "2.65 M body"
    return [
        *measure.machine(options.threads),
        (
            "corpus",
            f"GSM8K train, {options.rows} rows, {corpus['tokens']:,} tokens, "
            f"{corpus['targets']:,} of them trained; one epoch; longest row {LONGEST}",
        ),
        (
            "model",
            f"Qwen3, random weights, {shapes}, {precision}; no gradient checkpointing",
        ),
        ("method", f"LoRA r {LORA_RANK}, alpha {LORA_ALPHA}, all linear layers; full: all weights"),
        ("optimizer", f"AdamW (fused), constant learning rate {LEARNING_RATE:g}, clipped at 1"),
    ]


if __name__ == "__main__":
    main()
