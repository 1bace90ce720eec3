"""Preference tuning: is the loss TRL's, does it bring the behaviour, is it as fast as TRL?

    python -m benchmarks.kto                     all parts
    python -m benchmarks.kto --part loss         seconds
    python -m benchmarks.kto --part behaviour    on two generated tasks and on kto_en_demo.json
    python -m benchmarks.kto --part speed
    python -m benchmarks.kto --sweep             where the learning rates come from

loss: greatest differences over batches of random rows, on a tiny model with a perturbed LoRA.
behaviour: the demo's base of 2 M parameters. Each seed deals its own answers, and all methods learn
from as many, a step of 8 after the other, with a new LoRA. On the generated tasks the start model
has the preferred behaviour in part; what counts is its share in greedy answers to held-out
questions. On the real rows it is how many pairs of a liked and a disliked held-out answer the
log-ratio of tuned model and base puts into the right order. Mean (least - greatest) of the seeds.
speed: seconds per optimizer step, the cases by turns. It needs `pip install 'ytrainer[kto]'`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.kto_methods import ANSWERS_PER_STEP, LONGEST, LORA_RANK, METHODS
from benchmarks.kto_tasks import TASKS
from benchmarks.measure import BenchmarkError, Case, Figures

MODULE = "benchmarks.kto_case"
PARTS = ("loss", "behaviour", "speed")
REAL = "kto_en_demo.json"
EVERY_TASK = (*TASKS, REAL)

RATES = {"generated": (3e-5, 1e-4, 3e-4, 1e-3), "real": (3e-4, 1e-3, 3e-3)}
"""Learning rates of --sweep."""

SWEEP_SEED = 99

LEARNING_RATES: dict[str, dict[str, float]] = {
    "generated": {
        "KTO": 1e-3,
        "KTO, NLIRG": 3e-4,
        "APO-zero": 1e-3,
        "DPO, pairs": 3e-4,
        "SFT, liked": 1e-3,
    },
    "real": {
        "KTO": 3e-4,
        "KTO, NLIRG": 3e-4,
        "APO-zero": 3e-4,
        "DPO, pairs": 3e-4,
        "SFT, liked": 3e-4,
    },
}
"""Of each method: the one of RATES that is best on SWEEP_SEED, by the sum of both shares over both
generated tasks, for the real rows by the accuracy; of equal ones the smallest."""

HEADS = {
    "behaviour": "preferred behaviour",
    "right": "right besides",
    "accuracy": "accuracy of held-out pairs",
    "margin": "margin, nats per answer",
    "general": "general loss, nats",
}
DIGITS = {"behaviour": 2, "right": 2, "accuracy": 2, "margin": 1, "general": 3}
"""Figure -> how its column is called, and printed."""

MOST_DIFFERENCE = 1e-6
MOST_SECONDS = 1.05
"""What is asked: the loss within the first of TRL's, a step within so many times TRL's."""

SPEED_CELLS: tuple[dict[str, Any], ...] = (
    {"name": "ytrainer, LoRA", "trainer": "ytrainer", "method": "lora", "precomputed": False},
    {"name": "TRL, LoRA", "trainer": "trl", "method": "lora", "precomputed": False},
    {"name": "ytrainer, full", "trainer": "ytrainer", "method": "full", "precomputed": True},
    {"name": "TRL, full, precomputed", "trainer": "trl", "method": "full", "precomputed": True},
    {"name": "TRL, full, second model", "trainer": "trl", "method": "full", "precomputed": False},
)
COMPARED = (
    ("LoRA", "ytrainer, LoRA", "TRL, LoRA"),
    ("full", "ytrainer, full", "TRL, full, precomputed"),
)
"""Name, ours and what it is compared with."""


def mean_spread(values: Sequence[float], digits: int = 2) -> str:
    """'mean (least - greatest)'."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def loss_part(options: argparse.Namespace) -> None:
    """Part one."""
    case = {"name": "loss", "system": "loss", "batches": options.batches}
    found = measure.run_case(MODULE, case, options.threads)
    print(f"\n## Loss: greatest absolute difference over {options.batches} batches\n")
    print(measure.table(["loss", "value", "to TRL's batch loss", "to row losses by hand"],
                        loss_rows(found)))  # fmt: skip


def loss_rows(found: Mapping[str, Figures]) -> list[list[str]]:
    """Lines of the first table."""
    return [
        [
            name,
            f"{one['loss']:.6f}",
            "has none" if one["trl"] is None else _judged(one["trl"], MOST_DIFFERENCE, ".1e"),
            _judged(one["hand"], MOST_DIFFERENCE, ".1e"),
        ]
        for name, one in found.items()
    ]


def _judged(value: float, most: float, form: str) -> str:
    return f"{value:{form}}, {'holds' if value <= most else 'FALLS SHORT'}"


def behaviour_part(options: argparse.Namespace) -> None:
    """Part two: each task's table."""
    with tempfile.TemporaryDirectory() as scratch:
        cases = behaviour_cases(options, scratch)
        for task, case in cases.items():
            rates = LEARNING_RATES[_kind(task)]
            runs = [(name, rates[name]) for name in METHODS]
            found = [
                _run(options, {**case, "name": f"{task}, seed {seed}", "seed": seed, "runs": runs})
                for seed in range(options.seeds)
            ]
            print(f"\n## {task}: {options.seeds} seeds, {_size(case)}\n")
            print(behaviour_table(runs, found))


def behaviour_cases(options: argparse.Namespace, folder: str) -> dict[str, Case]:
    """Task -> what its seeds have in common; makes the base and the start models."""
    common = {"epochs": options.epochs, "data": str(options.data), **_base(options)}
    cases: dict[str, Case] = {}
    for task in (task for task in TASKS if task in options.tasks):
        start = {**common, "name": f"{task}, start", "system": "start", "task": task}
        made = _run(options, {**start, "folder": f"{folder}/{task.replace(' ', '-')}"})
        cases[task] = {
            **common,
            **made,
            "system": "generated",
            "task": task,
            "answers": options.answers,
            "held_out": options.held_out,
        }
    if REAL in options.tasks:
        cases[REAL] = {
            **common,
            "system": "real",
            "answers": options.real_rows,
            "held_out": options.real_held_out,
        }
    return cases


def behaviour_table(runs: Sequence[tuple[str, float]], found: Sequence[Figures]) -> str:
    """Methods by figures, before first. found: of each seed `before` and, by run, `after`."""
    real = "accuracy" in found[0]["after"][0]
    names = ("accuracy", "margin", "general") if real else ("behaviour", "right", "general")

    def cells(figures: Sequence[Figures]) -> list[str]:
        return [mean_spread([one[name] for one in figures], DIGITS[name]) for name in names]

    lines = [
        [method, f"{rate:g}", *cells([one["after"][at] for one in found])]
        for at, (method, rate) in enumerate(runs)
    ]
    start = "base" if real else "start model"
    return measure.table(
        ["method", "learning rate", *(HEADS[name] for name in names)],
        [[start, "", *cells([one["before"] for one in found])], *lines],
    )


def _kind(task: str) -> str:
    return "real" if task == REAL else "generated"


def _size(case: Case) -> str:
    steps = case["epochs"] * case["answers"] // ANSWERS_PER_STEP
    return f"{case['answers']} answers, {steps} steps, {case['held_out']} held out"


def sweep(options: argparse.Namespace) -> None:
    """Print what the learning rates lead to on a seed that is not reported."""
    with tempfile.TemporaryDirectory() as scratch:
        for task, case in behaviour_cases(options, scratch).items():
            runs = [(name, rate) for name in METHODS for rate in RATES[_kind(task)]]
            name = f"{task}, sweep"
            found = _run(options, {**case, "name": name, "seed": SWEEP_SEED, "runs": runs})
            print(f"\n## {task}: seed {SWEEP_SEED}, {_size(case)}\n")
            print(behaviour_table(runs, [found]), flush=True)


def speed_part(options: argparse.Namespace) -> None:
    """Part three."""
    common = {
        "system": "speed",
        "steps": options.steps,
        "data": str(options.data),
        **_base(options),
    }
    cases = [{**cell, **common} for cell in SPEED_CELLS]
    found = measure.run_interleaved(MODULE, cases, options.repeats, options.threads)
    print(
        f"\n## Seconds of an optimizer step: {ANSWERS_PER_STEP} rows of {REAL}, at most {LONGEST} "
        f"tokens each, {options.repeats} runs\n"
    )
    print(
        measure.table(
            ["case", "seconds: median (least - greatest)", "before the clock, s", "loss: last"],
            [
                [
                    name,
                    measure.spread(runs, "seconds_per_step", 3),
                    f"{measure.median(runs, 'before'):.1f}",
                    f"{measure.median(runs, 'last_loss'):.4f}",
                ]
                for name, runs in found.items()
            ],
        )
    )
    print()
    for line in speed_lines(found):
        print(line)


def speed_lines(found: Mapping[str, Sequence[Figures]]) -> list[str]:
    """The ratios that are asked for."""
    lines = []
    for name, ours, theirs in COMPARED:
        own, peer = (measure.median(found[case], "seconds_per_step") for case in (ours, theirs))
        judged = _judged(own / peer, MOST_SECONDS, ".3f")
        lines.append(f"seconds per step, {name}: {own:.3f} / {peer:.3f} = {judged}")
    return lines


def _base(options: argparse.Namespace) -> Figures:
    """The demo's base, made now where it is not there yet, and its general text."""
    return _run(options, {"name": "base", "system": "base"})


def _run(options: argparse.Namespace, case: Case) -> Figures:
    return measure.run_case(MODULE, case, options.threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print settings and the tables of the chosen parts."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--part", choices=(*PARTS, "all"), default="all")
    options.add_argument("--tasks", nargs="+", choices=EVERY_TASK, default=EVERY_TASK)
    options.add_argument("--seeds", type=int, default=3, help="of each cell of the behaviour part")
    options.add_argument("--answers", type=int, default=320, help="answers of a generated task")
    options.add_argument("--held-out", type=int, default=120, help="its held-out questions")
    options.add_argument("--real-rows", type=int, default=128, help="answers to learn from")
    options.add_argument("--real-held-out", type=int, default=56, help="half of them liked")
    options.add_argument("--epochs", type=int, default=2, help="times that each answer is seen")
    options.add_argument("--steps", type=int, default=20, help="optimizer steps of the speed part")
    options.add_argument("--batches", type=int, default=8, help="batches of the loss part")
    options.add_argument("--sweep", action="store_true", help="learning rates, then end")
    chosen = options.parse_args(arguments)
    for name in ("answers", "real_rows"):
        if getattr(chosen, name) % (2 * ANSWERS_PER_STEP):
            flag = f"--{name.replace('_', '-')}"
            raise BenchmarkError(f"{flag}: give a multiple of {2 * ANSWERS_PER_STEP}.")
    measure.require("trl", "kto")
    print(measure.table(["setting", "value"], _settings(chosen)))
    if chosen.sweep:
        sweep(chosen)
        return
    for part, show in zip(PARTS, (loss_part, behaviour_part, speed_part), strict=True):
        if chosen.part in (part, "all"):
            show(chosen)


def _settings(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [
        *measure.machine(options.threads),
        (
            "model",
            "the demo's base, fp32; generated tasks: after SFT on answers of both kinds; loss "
            "part: 2 layers of width 32, random weights",
        ),
        (
            "training",
            f"LoRA r {LORA_RANK}, beta 0.1, AdamW (fused), cosine, {ANSWERS_PER_STEP} answers a "
            f"step (DPO: {ANSWERS_PER_STEP // 2} pairs), rows cut at {LONGEST} tokens",
        ),
        (
            "feedback",
            "as many answers for all: one a prompt with a label (KTO, APO-zero), both answers of "
            "half as many prompts (DPO), liked ones alone (SFT); real rows: SFT sees the liked "
            "half twice as often, DPO learns from pairs of dpo_en_demo.json",
        ),
    ]


if __name__ == "__main__":
    main()
