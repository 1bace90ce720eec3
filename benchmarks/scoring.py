"""Claim: loss and entropy of every answer token take a fraction of the naive way's time.

    python -m benchmarks.scoring            CPU: vocabularies of 4,096 and of 151,936
    python -m benchmarks.scoring --gpu      a Qwen3-0.6B shape in bf16

naive: as published scorers do it, two forward passes a row, batch 1: one for the losses, one for
the entropies, each with all positions through the head and a log-softmax over all of them in
float32. ours: token_signals, one pass, which also gives each target's rank, the expected token and
its probability.

Both read the same tokenized GSM8K rows with the same model of random weights. The clock runs from
the rows in memory to the signals in memory. Every case runs alone in a process; the cases take
turns. Memory is that of each side's greatest run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.corpus import QWEN_VOCABULARY, VOCABULARY
from benchmarks.measure import MIB, BenchmarkError, Case, Figures

MODULE = "benchmarks.scoring_case"
SYSTEMS = ("naive", "ours")

PROMISED_DIFFERENCE = 1e-4
"""Nats by which a loss or an entropy may differ in float32."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A model to read with. promised: least ratio of rows a second."""

    shape: str
    vocabulary: int
    rows: int
    promised: float
    bf16: bool = False

    @property
    def name(self) -> str:
        return f"{self.shape}, vocabulary {self.vocabulary:,}{', bf16' if self.bf16 else ''}"


@dataclass(frozen=True, slots=True)
class Result:
    """What one setting gave. ratio: rows a second; memory: peak of ours over the naive peak."""

    ratio: float
    memory: float
    difference: float


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """The settings that are measured."""
    found = [
        Setting("2.7m", VOCABULARY, options.rows, promised=2.5),
        Setting("2.7m", QWEN_VOCABULARY, options.large_rows, promised=3.5),
    ]
    if options.gpu:
        found = [Setting("0.6b", QWEN_VOCABULARY, options.gpu_rows, promised=8.0, bf16=True)]
    return found


def cases_of(setting: Setting, folder: Path) -> list[Case]:
    """The setting's cases, by system."""
    return [
        {
            "name": system,
            "system": system,
            "folder": str(folder),
            "keep": str(folder / f"{system}.npy"),
            "shape": setting.shape,
            "vocabulary": setting.vocabulary,
            "rows": setting.rows,
            "bf16": setting.bf16,
        }
        for system in SYSTEMS
    ]


def greatest_difference(folder: Path) -> float:
    """Greatest difference of a loss or an entropy between the two sides, in nats.

    Raises BenchmarkError where they have not the same targets.
    """
    naive, ours = (np.load(folder / f"{system}.npy") for system in SYSTEMS)
    if naive.shape != ours.shape:
        raise BenchmarkError(f"not the same targets: {naive.shape[1]:,} and {ours.shape[1]:,}")
    return float(np.abs(naive - ours).max())


def compare(setting: Setting, found: Mapping[str, Sequence[Figures]], difference: float) -> Result:
    """Print the figures of one setting."""
    memory = "gpu_peak" if setting.bf16 else "peak"
    peaks = {name: max(float(run[memory]) for run in runs) for name, runs in found.items()}
    above = {name: max(float(run["above"]) for run in runs) for name, runs in found.items()}
    print(f"\n{setting.name}, {setting.rows:,} rows\n")
    print(
        measure.table(
            [
                "case",
                "rows/s: median (least - greatest)",
                "peak GPU memory, MiB" if setting.bf16 else "peak RSS, MiB",
                "RSS above imports and model, MiB",
            ],
            [
                [
                    name,
                    measure.spread(runs, "rows_per_second", 1),
                    f"{peaks[name] / MIB:,.0f}",
                    f"{above[name] / MIB:,.0f}",
                ]
                for name, runs in found.items()
            ],
        )
    )
    naive, ours = (measure.median(found[name], "rows_per_second") for name in SYSTEMS)
    result = Result(ours / naive, peaks["ours"] / peaks["naive"], difference)
    print(
        f"\nrows/s, {setting.name}: {ours:,.1f} / {naive:,.1f} = {result.ratio:.2f} "
        f"of {setting.promised} promised"
        f"\npeak memory: {peaks['ours'] / MIB:,.0f} / {peaks['naive'] / MIB:,.0f} MiB "
        f"= {result.memory:.2f}"
        f"\ngreatest difference of a loss or an entropy: {difference:.1e} nats"
        + ("" if setting.bf16 else f" of {PROMISED_DIFFERENCE:.0e} promised")
    )
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the settings, every figure and the ratios."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=256, help="rows with 4,096 entries")
    options.add_argument("--large-rows", type=int, default=48, help="rows with 151,936 entries")
    options.add_argument("--gpu", action="store_true", help="the GPU tier instead")
    options.add_argument("--gpu-rows", type=int, default=1024, help="rows of the GPU tier")
    chosen = options.parse_args(arguments)
    settings = settings_of(chosen)
    with tempfile.TemporaryDirectory() as scratch:
        rows = max(setting.rows for setting in settings)
        prepare = {"name": "prepare", "system": "prepare", "folder": scratch, "rows": rows}
        corpus = measure.run_case(MODULE, {**prepare, "data": str(chosen.data)}, chosen.threads)
        if chosen.gpu and not corpus["cuda"]:
            raise BenchmarkError("--gpu: torch sees no CUDA device here. Leave --gpu out.")
        print(measure.table(["setting", "value"], _described(chosen, corpus)))
        ratios = []
        for setting in settings:
            cases = cases_of(setting, Path(scratch))
            found = measure.run_interleaved(MODULE, cases, chosen.repeats, chosen.threads)
            ratios.append(compare(setting, found, greatest_difference(Path(scratch))).ratio)
    print(f"ratio: {min(ratios):.2f}")


def _described(options: argparse.Namespace, corpus: Figures) -> list[tuple[str, str]]:
    return [
        *measure.machine(options.threads),
        (
            "corpus",
            f"GSM8K train, {corpus['tokens']:,} tokens, {corpus['targets']:,} of them targets",
        ),
        ("model", "Qwen3, random weights"),
        ("runs", f"{options.repeats} of every case"),
    ]


if __name__ == "__main__":
    main()
