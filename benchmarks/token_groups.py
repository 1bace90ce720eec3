"""Claim: packed batches reach the held-out loss of token groups in a fraction of the time.

    python -m benchmarks.token_groups             full fine-tuning
    python -m benchmarks.token_groups --lora      LoRA r 16, alpha 32, as published
    python -m benchmarks.token_groups --sweep     where the learning rates below come from

naive: token groups as the published trainer forms them: for every 10 target tokens the whole row
goes through the model, logits for all of its positions, NLIRG weights on the group's tokens, one
AdamW step; rows in order, 2 epochs. Its learning rate is to be the best of three for its own
last loss (see SETTINGS).
exact: our token groups; same groups, same steps, same learning rate, so the same losses.
fast:  ours too, but one step a packed batch, with a larger learning rate and more epochs.

naive / fast compares the times to the held-out loss that naive ends with, naive / exact those of
all steps. All begin with the same weights. The clock runs from the start of the training, building
of batches included; it stands still while the held-out rows are evaluated. Every case runs alone
in a process; the cases take turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import BenchmarkError, Case, Figures
from benchmarks.token_groups_case import BASE, GROUP

MODULE = "benchmarks.token_groups_case"
EPOCHS = 2
EVALUATIONS = 8
"""Evaluations of naive and exact: naive's time is that of the first that is as good as its last."""

NAIVE_RATES = (1e-4, 3e-4, 1e-3)
FAST_RATES = (1e-3, 2e-3, 4e-3)

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "naive": {"learning_rate": 3e-4},
        "fast": {"learning_rate": 2e-3, "epochs": 6, "pack_length": 512, "evaluate_every": 10},
    },
    "lora": {
        "naive": {"learning_rate": 1e-3},
        "fast": {"learning_rate": 1e-2, "epochs": 6, "pack_length": 512, "evaluate_every": 10},
    },
}
"""Chosen beforehand. Full: fast is the best of two rates that were run; of naive's three only 3e-4
was run with all rows. LoRA: not swept. Run --sweep on an idle machine before quoting a ratio."""


def cases_of(method: str, folder: Path, epochs: int, **changes: dict[str, Any]) -> list[Case]:
    """The three cases; changes: settings of naive or fast that differ from SETTINGS."""
    naive, fast = (SETTINGS[method][name] | changes.get(name, {}) for name in ("naive", "fast"))
    common = {"folder": str(folder), "method": method}
    groups = {**common, **naive, "epochs": epochs, "evaluations": EVALUATIONS}
    return [
        {"name": "naive", "system": "naive", **groups},
        {"name": "exact", "system": "exact", **groups},
        {"name": "fast", "system": "fast", **common, **fast},
    ]


def seconds_to(run: Figures, loss: float) -> float:
    """Training seconds until the held-out loss was first as low; infinite where it never was."""
    return min((at for at, _, reached in run["curve"] if reached <= loss), default=math.inf)


def compare(found: dict[str, list[Figures]]) -> tuple[float, float]:
    """Print the figures of the cases. Returns (naive / exact, naive / fast)."""
    target = min(run["loss"] for run in found["naive"])
    times = {name: [seconds_to(run, target) for run in runs] for name, runs in found.items()}
    times["naive"] = [seconds_to(run, run["loss"]) for run in found["naive"]]
    print(
        measure.table(
            ["case", "steps", "seconds, all steps", "last loss", "seconds to naive's loss"],
            [
                [
                    name,
                    f"{runs[0]['steps']:,}",
                    measure.spread(runs, "seconds", 1),
                    measure.spread(runs, "loss", 4),
                    "-" if name == "exact" else f"{statistics.median(times[name]):.1f}",
                ]
                for name, runs in found.items()
            ],
        )
    )
    print(f"\nheld-out loss to reach: {target:.4f} nats per token")
    naive, exact = (measure.median(found[name], "loss") for name in ("naive", "exact"))
    print(f"last losses: naive {naive:.4f}, exact {exact:.4f}, apart by {abs(naive - exact):.4f}")
    fast = statistics.median(times["fast"])
    if math.isinf(fast):
        best = min(loss for run in found["fast"] for _, _, loss in run["curve"])
        print(f"fast mode did not reach it; its best was {best:.4f}")
    exact_ratio = measure.median(found["naive"], "seconds") / measure.median(
        found["exact"], "seconds"
    )
    return exact_ratio, statistics.median(times["naive"]) / fast


def sweep(method: str, folder: Path, options: argparse.Namespace) -> None:
    """Print what the learning rates of both sides lead to."""
    rows = []
    for system, rates in (("naive", NAIVE_RATES), ("fast", FAST_RATES)):
        for rate in rates:
            cases = cases_of(method, folder, options.epochs, **{system: {"learning_rate": rate}})
            case = next(case for case in cases if case["name"] == system)
            run = measure.run_case(MODULE, case, options.threads)
            curve = " ".join(f"{at:.0f}s:{loss:.3f}" for at, _, loss in run["curve"])
            rows.append([system, f"{rate:g}", f"{run['seconds']:.1f}", f"{run['loss']:.4f}", curve])
    print(measure.table(["case", "learning rate", "seconds", "last loss", "curve"], rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the settings, every figure and the ratios."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=200, help="GSM8K rows that are trained")
    options.add_argument("--held-out", type=int, default=100, help="GSM8K rows that are evaluated")
    options.add_argument("--epochs", type=int, default=EPOCHS, help="of naive and exact")
    options.add_argument("--lora", action="store_true", help="LoRA instead of all weights")
    options.add_argument("--sweep", action="store_true", help="learning rates, then end")
    chosen = options.parse_args(arguments)
    method = "lora" if chosen.lora else "full"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = measure.run_case(
            MODULE,
            {
                "name": "base",
                "system": "base",
                "folder": scratch,
                "data": str(chosen.data),
                "rows": chosen.rows,
                "held_out": chosen.held_out,
            },
            chosen.threads,
        )
        print(measure.table(["setting", "value"], _settings(chosen, method, base)))
        print()
        if chosen.sweep:
            sweep(method, folder, chosen)
            return
        cases = cases_of(method, folder, chosen.epochs)
        found = measure.run_interleaved(MODULE, cases, chosen.repeats, chosen.threads)
    exact, fast = compare(found)
    print(f"\nratio exact: {exact:.2f}")
    print(f"ratio: {fast:.2f}")
    if not fast:
        raise BenchmarkError("fast mode did not reach the loss of the token groups")


def _settings(options: argparse.Namespace, method: str, base: Figures) -> list[tuple[str, str]]:
    naive, fast = SETTINGS[method]["naive"], SETTINGS[method]["fast"]
    return [
        *measure.machine(options.threads),
        (
            "corpus",
            f"GSM8K, {base['rows']} rows with {base['targets']:,} target tokens; "
            f"held out {base['held_out']} rows",
        ),
        (
            "base model",
            f"Qwen3, 2.65 M body, vocabulary 4,096, fp32; {base['tokens']:,} tokens of general "
            f"text at {BASE['learning_rate']:g}; held-out loss {base['loss']:.3f}",
        ),
        ("method", "LoRA r 16, alpha 32, no dropout" if method == "lora" else "full fine-tuning"),
        (
            "naive, exact",
            f"{GROUP} target tokens a step, {options.epochs} epochs, learning rate "
            f"{naive['learning_rate']:g}, constant",
        ),
        (
            "fast",
            f"packs of {fast['pack_length']} tokens a step, at most {fast['epochs']} epochs, "
            f"learning rate {fast['learning_rate']:g}, {fast.get('lr_scheduler', 'constant')}",
        ),
        ("all", f"AdamW (fused), NLIRG, gradient clipped at 1; {options.repeats} runs each"),
    ]


if __name__ == "__main__":
    main()
