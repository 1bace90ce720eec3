"""Which score finds planted errors best: AUROC and AUPRC per score and kind of error.

python -m benchmarks.quality                six cases; about an hour on 2 cores
python -m benchmarks.quality --sizes small  one of them, 3 minutes

The bases (benchmarks/bases.py): two trained from nothing, of 2.7 M and 8.8 M parameters, that
read the first half of GSM8K's training rows; one of 2.7 M that has read none of it (general), and
the same out of fold (folded): tuned on one half of the very rows that are scored, errors and all,
to read the other half, as score.folds does it; a published one of 135 M as it is; and the same
after 1,000 rows of that first half. The second half, which none of ours has read, gets errors into
10 % of its rows (benchmarks/planting.py): five kinds, equally many of each. Every score of
ytrainer_core/scoring/scores.py then ranks the rows. The figures of one kind are those of its rows
against the good ones; intervals are of rows that were drawn anew, 95 % of the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import measure, ranking
from benchmarks.measure import Figures
from benchmarks.planting import KINDS
from benchmarks.quality_case import SPAN_RULES, overlap
from benchmarks.ranking import Floats

MODULE = "benchmarks.quality_case"
SIZES = ("small", "large", "general", "folded", "pretrained", "tuned")

ASKED = {
    "mismatched": 0.95,
    "truncated": 0.95,
    "gibberish": 0.95,
    "wrong_number": 0.75,
    "entity": 0.75,
}
"""AUROC that the default score shall reach with the last base."""

CONTROL = "mean_loss"
"""The score that the default shall beat on average."""

AVERAGE = "average"

Curves = dict[str, dict[str, Floats]]
"""Score -> kind or AVERAGE -> [1 + resamples]; the first is the rows themselves."""


def areas(found: Figures, drawn: Floats, metric: str) -> Curves:
    """A metric of every score, by kind and on average over the kinds."""
    kinds = np.array(found["kinds"])
    area = {"AUROC": ranking.auroc, "AUPRC": ranking.average_precision}[metric]
    curves: Curves = {}
    for name, scores in found["scores"].items():
        values = np.array(scores)
        curves[name] = {}
        for kind in KINDS:
            rows = (kinds == "") | (kinds == kind)
            curves[name][kind] = area(values[rows], kinds[rows] == kind, drawn[:, rows])
        curves[name][AVERAGE] = np.mean([curves[name][kind] for kind in KINDS], axis=0)
    return curves


def area_table(curves: Curves) -> str:
    """Scores, best average first, by kinds."""
    ranked = sorted(curves, key=lambda name: -curves[name][AVERAGE][0])
    columns = (AVERAGE, *KINDS)
    return measure.table(
        ["score", *columns],
        [[name, *(_cell(curves[name][column]) for column in columns)] for name in ranked],
    )


def _cell(values: Floats) -> str:
    value, low, high = ranking.interval(values)
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def precision_table(found: Figures) -> str:
    """How many of the k rows with the highest score are planted, k as many as were planted."""
    wrong = np.array([bool(kind) for kind in found["kinds"]])
    count = int(wrong.sum())
    rows = {
        name: ranking.precision_at(np.array(scores), wrong, count)
        for name, scores in found["scores"].items()
    }
    ranked = sorted(rows, key=lambda name: -rows[name])
    return measure.table(
        ["score", f"precision at {count}"], [[name, f"{rows[name]:.3f}"] for name in ranked]
    )


def span_line(places: Sequence[Mapping[str, Any]], rule: str) -> str:
    """How well spans point at wrong numbers. rule: as score.spans."""
    first, touched, any_touched = [], 0, 0
    for place in places:
        shares = [overlap(place["planted"], span) for span in place["spans"][rule]]
        first.append(shares[0] if shares else 0.0)
        touched += bool(shares and shares[0])
        any_touched += any(shares)
    count = max(1, len(places))
    return (
        f"{rule} spans of {len(places)} wrong numbers: IoU of the most severe span "
        f"{statistics.mean(first or [0]):.2f} on average; it touches the number in "
        f"{touched / count:.0%} of the rows, some span does in {any_touched / count:.0%}"
    )


def verdict(curves: Mapping[str, Curves], default: str) -> list[str]:
    """Best score on average over bases and kinds, and whether what was asked for holds."""
    names = next(iter(curves.values()))
    overall = {name: np.mean([c[name][AVERAGE] for c in curves.values()], axis=0) for name in names}
    best = max(overall, key=lambda name: overall[name][0])
    lines = [
        f"best on average over bases and kinds: {best}, AUROC {_cell(overall[best])}",
        f"default: {default}, AUROC {_cell(overall[default])}",
        f"{default} - {CONTROL}: {_cell(overall[default] - overall[CONTROL])}",
    ]
    largest = list(curves)[-1]
    for kind, least in ASKED.items():
        value = float(curves[largest][default][kind][0])
        held = "holds" if value >= least else "FALLS SHORT"
        lines.append(f"asked {kind} >= {least:.2f} with the {largest} base: {value:.3f}, {held}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print settings, tables of every base, and the verdict."""
    options = measure.parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=1500, help="unseen rows; 0 takes all")
    options.add_argument("--share", type=float, default=0.1, help="share of rows with an error")
    options.add_argument("--seed", type=int, default=0, help="of planting and of resampling")
    options.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="base models")
    chosen = options.parse_args(arguments)
    common = {
        "data": str(chosen.data),
        "rows": chosen.rows,
        "share": chosen.share,
        "seed": chosen.seed,
    }
    print(measure.table(["setting", "value"], measure.machine(chosen.threads)))
    curves: dict[str, Curves] = {}
    for size in chosen.sizes:
        case = {"name": size, "size": size, **common}
        found = measure.run_case(MODULE, case, chosen.threads)
        drawn = ranking.resamples(len(found["kinds"]), chosen.resamples, chosen.seed)
        curves[size] = areas(found, drawn, "AUROC")
        _show(size, found, curves[size], areas(found, drawn, "AUPRC"))
    from ytrainer_core.config import ScoreConfig

    print()
    print("\n".join(verdict(curves, ScoreConfig().method)))


def _show(size: str, found: Figures, roc: Curves, precision: Curves) -> None:
    planted = sum(map(bool, found["kinds"]))
    print(
        f"\n## {size} base: {found['parameters'] / 1e6:.1f} M parameters, "
        f"{found['trained_tokens'] / 1e6:.1f} M tokens read\n\n"
        f"{len(found['kinds']):,} rows, {planted} with an error; "
        f"{found['loss']:.3f} nats per target"
    )
    for metric, curves in (("AUROC", roc), ("AUPRC", precision)):
        print(f"\n{metric}\n\n{area_table(curves)}")
    print(f"\n{precision_table(found)}\n")
    for rule in SPAN_RULES:
        print(span_line(found["places"], rule))


if __name__ == "__main__":
    main()
