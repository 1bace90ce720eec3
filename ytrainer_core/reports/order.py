"""The report of the order stage: how difficulty runs through training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ytrainer_core.reports.figures import Line, curves, distribution
from ytrainer_core.reports.render import write_page


@dataclass(frozen=True, slots=True)
class OrderedRow:
    """One row of the corpus with its difficulty (unit of the mode) and the start of its text."""

    origin: str
    difficulty: float
    snippet: str


@dataclass(frozen=True, slots=True)
class OrderReport:
    """difficulty: of all rows in the order of training; first, last: some rows of both ends.

    settings: name -> text, what else there is to know of the order (schedule, groups, direction).
    """

    title: str
    mode: str
    difficulty: Sequence[float]
    first: Sequence[OrderedRow]
    last: Sequence[OrderedRow]
    settings: Mapping[str, str] = field(default_factory=dict)


MODES = {
    "none": "training shuffles the rows",
    "file": "rows keep the order of the corpus",
    "similarity": "how differently loss and entropy run through a row",
    "filtered": "number of tokens with a high loss, those the model is unsure about count half",
    "mean_loss": "mean loss of the answer tokens, nats",
    "entropy": "mean entropy of the answer tokens, nats",
    "length": "answer tokens",
    "random": "no difficulty: a shuffled control",
}


def write_order_report(path: Path, data: OrderReport) -> None:
    """Write the report atomically as one HTML file."""
    positions = range(1, len(data.difficulty) + 1)
    write_page(
        path,
        "order.html.j2",
        data=data,
        rows=len(data.difficulty),
        mode_line=MODES.get(data.mode, ""),
        order_chart=curves(
            "Difficulty in the order of training",
            [Line("difficulty", list(positions), data.difficulty)],
            x_label="row",
            y_label=f"difficulty ({data.mode})",
        ),
        spread_chart=distribution(
            "Distribution of difficulty", data.difficulty, x_label=f"difficulty ({data.mode})"
        ),
    )
