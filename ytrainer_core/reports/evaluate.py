"""The report of the evaluate stage: the gate's verdict, and what the models said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ytrainer_core.evaluation.gate import Reason
from ytrainer_core.reports.figures import Curve, loss_bands, token_losses
from ytrainer_core.reports.render import number, percent, write_page


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One measure of base and tuned model, and which direction is good."""

    name: str
    base: float
    tuned: float
    better: Literal["lower", "higher"]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """What both models answered to one held-out prompt."""

    prompt: str
    expected: str
    base: str
    tuned: str
    base_correct: bool
    tuned_correct: bool


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """verdict: whether the gate accepts; nll_base, nll_tuned: token losses in nats."""

    title: str
    metrics: Sequence[MetricLine]
    verdict: bool
    reasons: Sequence[Reason]
    generations: Sequence[Generation]
    nll_base: Sequence[float] = ()
    nll_tuned: Sequence[float] = ()
    weight_curve: Curve = ()


@dataclass(frozen=True, slots=True)
class _ShownMetric:
    name: str
    unit: str
    base: str
    tuned: str
    change: str
    direction: str
    better: str


_NO_RELATIVE_CHANGE = ("share", "%", "rows")  # "+258 %" of a share says less than +0.31

_GROUPS = (  # base_correct, tuned_correct, heading; what needs a look comes first
    (True, False, "Broken: the base was right, the tuned model is wrong"),
    (False, False, "Still wrong"),
    (False, True, "Fixed: the base was wrong, the tuned model is right"),
    (True, True, "Still right"),
)


def write_evaluate_report(path: Path, data: EvaluateReport) -> None:
    """Write the report atomically as one HTML file."""
    series = {"base": data.nll_base, "tuned": data.nll_tuned}
    series = {label: values for label, values in series.items() if len(values)}
    groups = []
    for base_correct, tuned_correct, heading in _GROUPS:
        kind = (base_correct, tuned_correct)
        members = [g for g in data.generations if (g.base_correct, g.tuned_correct) == kind]
        groups.append((heading, tuned_correct, members))
    write_page(
        path,
        "evaluate.html.j2",
        data=data,
        metrics=[_shown(metric) for metric in data.metrics],
        groups=groups,
        loss_chart=token_losses("Losses of held-out tokens", series, data.weight_curve)
        if series
        else None,
        series=list(series),
        bands=loss_bands(series, data.weight_curve),
    )


def _shown(metric: MetricLine) -> _ShownMetric:
    decimals = 0 if max(abs(metric.base), abs(metric.tuned)) >= 1000 else 3
    change = metric.tuned - metric.base
    text, direction = "–", "unknown"
    if math.isfinite(change):
        text = ("+" if change > 0 else "") + number(change, decimals)
        if metric.base and change and metric.unit not in _NO_RELATIVE_CHANGE:
            relative = change / abs(metric.base)
            text += f" ({'+' if relative > 0 else '−'}{percent(abs(relative))})"
        good = (change < 0) == (metric.better == "lower")
        direction = "unchanged" if change == 0 else "better" if good else "worse"
    return _ShownMetric(
        metric.name,
        metric.unit,
        number(metric.base, decimals),
        number(metric.tuned, decimals),
        text,
        direction,
        metric.better,
    )
