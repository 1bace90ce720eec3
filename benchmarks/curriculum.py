"""Claim to be checked: rows from easy to hard need fewer steps to the same loss than random order.

    python -m benchmarks.curriculum                      about 25 minutes on 2 cores
    python -m benchmarks.curriculum --base small         a base that knows GSM8K already
    python -m benchmarks.curriculum --sweep              where the learning rate comes from

Every seed draws its own rows from the second half of GSM8K's training file and trains all orders on
them, full fine-tuning from the same base with a constant learning rate, one step a pack. The base
rates the rows, as the score stage does. The held-out loss of GSM8K test rows is taken every few
steps, and gives for each order

steps: optimizer steps to 1.05 x the last held-out loss of random order (mean over its seeds),
       linear between two evaluations; an order that does not come there counts with all its steps.
area:  under the curve of the held-out loss, over the steps: the mean loss while training, in nats.

Both are compared with random order on the same rows, seed by seed: steps as a ratio, the area as a
difference, each with the interval that Student's t gives for the mean over the seeds. An order is
said to differ where the interval of all comparisons together (Bonferroni) leaves no effect out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import measure
from benchmarks.measure import BenchmarkError, Case, Figures

MODULE = "benchmarks.curriculum_case"
RANDOM = "random"

ORDERS: dict[str, dict[str, Any]] = {
    RANDOM: {"mode": "random"},
    "similarity": {"mode": "similarity"},
    "filtered": {"mode": "filtered"},
    "mean_loss": {"mode": "mean_loss"},
    "entropy": {"mode": "entropy"},
    "length": {"mode": "length"},
    "mean_loss, descending": {"mode": "mean_loss", "descending": True},
    "length, descending": {"mode": "length", "descending": True},
    "mean_loss, buckets": {"mode": "mean_loss", "schedule": "buckets"},
    "mean_loss, competence": {"mode": "mean_loss", "schedule": "competence"},
}
"""Name -> fields of OrderConfig."""

RATES = (3e-4, 1e-3, 2e-3, 4e-3)
"""Learning rates of --sweep."""

MARGIN = 1.05
"""Times the last loss of random order that all shall reach."""

CONFIDENCE = 0.95
LEAST_SEEDS = 5

Curve = Sequence[Sequence[float]]
"""(step, held-out loss), ascending steps, from step 0."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over the seeds and the bounds within which it lies with some confidence."""

    mean: float
    low: float
    high: float

    def leaves_out(self, value: float) -> bool:
        """Whether the value lies outside."""
        return not self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """One order against random on the same rows.

    ratio: of the steps. area: difference of the mean losses, nats. Each by itself (CONFIDENCE)
    and, in `_all`, such that all comparisons hold together.
    """

    ratio: Interval
    area: Interval
    ratio_all: Interval
    area_all: Interval


def steps_to(curve: Curve, loss: float) -> float:
    """Steps until the loss was first as low, linear between evaluations; infinite for never."""
    step, above = curve[0]
    if above <= loss:
        return step
    for later, below in curve[1:]:
        if below <= loss:
            return step + (later - step) * (above - loss) / (above - below)
        step, above = later, below
    return math.inf


def mean_loss(curve: Curve) -> float:
    """Area under the curve over its steps, nats per token (trapezoids)."""
    area = sum(
        (later - step) * (loss + next_loss) / 2
        for (step, loss), (later, next_loss) in itertools.pairwise(curve)
    )
    return area / (curve[-1][0] - curve[0][0])


def student_quantile(probability: float, freedom: int) -> float:
    """Student's t for a probability in [0.5, 1), by Simpson's rule and bisection."""

    def density(t: float) -> float:
        return (1 + t * t / freedom) ** (-(freedom + 1) / 2)

    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(freedom * math.pi)

    def cumulative(t: float, parts: int = 2000) -> float:
        width = t / parts
        inner = sum((4 if i % 2 else 2) * density(i * width) for i in range(1, parts))
        return 0.5 + scale * width / 3 * (density(0) + inner + density(t))

    low, high = 0.0, 1.0
    while cumulative(high) < probability:
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cumulative(middle) < probability else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float) -> Interval:
    """The mean of some draws and where it lies, by Student's t."""
    mean = statistics.mean(values)
    quantile = student_quantile((1 + confidence) / 2, len(values) - 1)
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def counted(curve: Curve, target: float) -> float:
    """`steps_to`, or all steps where the target was not reached."""
    return min(steps_to(curve, target), curve[-1][0])


def compare(
    curves: Sequence[Curve], control: Sequence[Curve], target: float, comparisons: int
) -> Comparison:
    """An order and random order, seed by seed; comparisons: how many are made in all."""
    ratios = [
        counted(curve, target) / counted(other, target)
        for curve, other in zip(curves, control, strict=True)
    ]
    areas = [
        mean_loss(curve) - mean_loss(other) for curve, other in zip(curves, control, strict=True)
    ]
    together = 1 - (1 - CONFIDENCE) / comparisons
    return Comparison(
        interval(ratios, CONFIDENCE),
        interval(areas, CONFIDENCE),
        interval(ratios, together),
        interval(areas, together),
    )


def target_of(control: Sequence[Curve]) -> float:
    """The held-out loss to reach. Raises BenchmarkError where the base is there already."""
    start, last = (statistics.mean(curve[at][1] for curve in control) for at in (0, -1))
    if start <= MARGIN * last:
        raise BenchmarkError(
            f"random order takes the held-out loss from {start:.3f} to {last:.3f} only, so that "
            f"{MARGIN} x the last is reached before the first step. Take --base general, more "
            "--rows or more --epochs."
        )
    return MARGIN * last


def conclude(found: Mapping[str, Sequence[Curve]]) -> None:
    """Print the table and the last sentences."""
    control = found[RANDOM]
    target = target_of(control)
    others = [name for name in found if name != RANDOM]
    compared = {name: compare(found[name], control, target, len(others)) for name in others}
    print(f"\nheld-out loss of the base: {control[0][0][1]:.3f}; to reach: {target:.3f} nats\n")
    print(
        measure.table(
            [
                "order",
                "steps (least - greatest)",
                "of random's, 95 %",
                "area, nats (least - greatest)",
                "less random's, 95 %",
                "last loss",
            ],
            [_line(name, curves, target, compared.get(name)) for name, curves in found.items()],
        )
    )
    print(f"\nall comparisons together at {CONFIDENCE:.0%}, {len(control)} seeds:")
    for what, key, null, less, more in (
        ("steps", "ratio_all", 1.0, "fewer than random's", "more"),
        ("area", "area_all", 0.0, "less than random's", "more"),
    ):
        apart = {n: getattr(c, key) for n, c in compared.items()}
        apart = {n: one for n, one in apart.items() if one.leaves_out(null)}
        below, above = (
            [n for n, one in apart.items() if (one.mean < null) is side] for side in (True, False)
        )
        print(f"{what}: significantly {less} for {_named(below)}; {more} for {_named(above)}.")


def _line(
    name: str, curves: Sequence[Curve], target: float, compared: Comparison | None
) -> list[str]:
    steps = [{"steps": counted(curve, target), "area": mean_loss(curve)} for curve in curves]
    missed = sum(math.isinf(steps_to(curve, target)) for curve in curves)
    last = statistics.mean(curve[-1][1] for curve in curves)
    return [
        name,
        measure.spread(steps, "steps") + (f", {missed} not reached" if missed else ""),
        _within(compared.ratio, "{:.2f}") if compared else "1",
        measure.spread(steps, "area", 3),
        _within(compared.area, "{:+.3f}") if compared else "0",
        f"{last:.3f}",
    ]


def _within(one: Interval, form: str) -> str:
    return f"{form.format(one.mean)} ({form.format(one.low)} to {form.format(one.high)})"


def _named(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


def sweep(case: Case, threads: int) -> None:
    """Print what the learning rates lead random order to, on the rows of the first seed."""
    rows = []
    for rate in RATES:
        run = measure.run_case(
            MODULE,
            {
                **case,
                "name": f"{rate:g}",
                "learning_rate": rate,
                "orders": {RANDOM: ORDERS[RANDOM]},
            },
            threads,
        )
        curve = run["curves"][RANDOM]
        rows.append([f"{rate:g}", f"{mean_loss(curve):.3f}", f"{curve[-1][1]:.3f}"])
    print(measure.table(["learning rate", "area, nats", "last loss"], rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the settings, the table, and which orders differ from random."""
    options = measure.parser(__doc__ or "", repeats=LEAST_SEEDS)
    options.add_argument("--base", default="general", help="a size of benchmarks.bases, or general")
    options.add_argument("--rows", type=int, default=300, help="GSM8K rows of a training")
    options.add_argument("--held-out", type=int, default=60, help="GSM8K rows that are evaluated")
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--pack-length", type=int, default=512, help="tokens of a step")
    options.add_argument("--evaluate-every", type=int, default=20, help="steps")
    options.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    options.add_argument("--sweep", action="store_true", help="learning rates, then end")
    chosen = options.parse_args(arguments)
    if chosen.repeats < 2:
        raise BenchmarkError("--repeats: an interval needs 2 seeds at least.")
    made = {"name": "base", "system": "base", "base": chosen.base, "data": str(chosen.data)}
    case = case_of(chosen, measure.run_case(MODULE, made, chosen.threads)["base"])
    if chosen.sweep:
        sweep(case, chosen.threads)
        return
    runs = [
        measure.run_case(MODULE, {**case, "name": f"seed {seed}", "seed": seed}, chosen.threads)
        for seed in range(chosen.repeats)
    ]
    print(measure.table(["setting", "value"], _settings(chosen, runs)))
    conclude({name: [run["curves"][name] for run in runs] for name in case["orders"]})


def case_of(options: argparse.Namespace, base: str) -> Case:
    """What all seeds have in common, with the first seed."""
    return {
        "system": "seed",
        "seed": 0,
        "base": base,
        "data": str(options.data),
        "rows": options.rows,
        "held_out": options.held_out,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "pack_length": options.pack_length,
        "evaluate_every": options.evaluate_every,
        "orders": {name: ORDERS[name] for name in dict.fromkeys([RANDOM, *options.orders])},
    }


def _settings(options: argparse.Namespace, runs: Sequence[Figures]) -> list[tuple[str, str]]:
    tokens = statistics.mean(run["tokens"] for run in runs)
    steps = runs[0]["curves"][RANDOM][-1][0]
    return [
        *measure.machine(options.threads),
        (
            "corpus",
            f"GSM8K train, {options.rows} rows of its second half a seed, about {tokens:,.0f} "
            f"tokens; held out {options.held_out} rows of GSM8K test",
        ),
        ("base model", f"{options.base} of benchmarks.bases, fp32"),
        (
            "training",
            f"all weights, cross-entropy, AdamW (fused), constant learning rate "
            f"{options.learning_rate:g}, {options.epochs} epoch(s), one step a pack of "
            f"{options.pack_length} tokens, {steps} steps",
        ),
        ("seeds", f"{options.repeats}; each its own rows, shuffles and draws"),
    ]


if __name__ == "__main__":
    main()
