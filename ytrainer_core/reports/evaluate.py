"""The report of the evaluate stage: the gate's verdict, the scores, and what the models said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ytrainer_core.evaluation.verdict import Reason
from ytrainer_core.reports.comparison import SAME, Comparison, ShownChange, shown_comparison
from ytrainer_core.reports.figures import Chart, Curve, changes, loss_bands, token_losses
from ytrainer_core.reports.render import number, percent, write_page

if TYPE_CHECKING:
    from ytrainer_core.evaluation.intervals import Difference, Estimate
    from ytrainer_core.evaluation.metrics import Better

BASE, CHAMPION, CHALLENGER = "base", "champion", "challenger"
"""The models, by the names they have everywhere in a report."""


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric of all models. against: challenger minus base, and minus champion."""

    name: str
    group: str
    better: Better
    unit: str
    description: str
    values: Mapping[str, Estimate]
    against: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Generation:
    """What the models answered to one held-out prompt, and which of them were right."""

    prompt: str
    expected: str
    answers: Mapping[str, str]
    right: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What the page is made of.

    verdict: whether the gate accepts. names: of the models, base and challenger at least.
    right_by: metric that says which answers are right. comparison: the challenger beside the
    model that it would replace. nll_base, nll_tuned: token losses in nats.
    """

    title: str
    verdict: bool
    reasons: Sequence[Reason]
    names: Mapping[str, str]
    metrics: Sequence[MetricLine]
    generations: Sequence[Generation] = ()
    right_by: str = ""
    comparison: Comparison | None = None
    nll_base: Sequence[float] = ()
    nll_tuned: Sequence[float] = ()
    weight_curve: Curve = ()

    @property
    def models(self) -> list[str]:
        """The models there are, in the order of the columns."""
        return [name for name in (BASE, CHAMPION, CHALLENGER) if name in self.names]

    @property
    def replaced(self) -> str:
        """The model that the challenger would replace."""
        return CHAMPION if CHAMPION in self.names else BASE


@dataclass(frozen=True, slots=True)
class _Cell:
    """A value with its interval and, for a difference, what it means."""

    value: str
    interval: str = ""
    chance: str = ""
    direction: str = ""


@dataclass(frozen=True, slots=True)
class _ShownMetric:
    line: MetricLine
    values: Sequence[_Cell]
    against: Sequence[_Cell]


@dataclass(frozen=True, slots=True)
class _Changes:
    """Rows whose loss changed, the worst of either direction first."""

    sentence: str
    cards: Sequence[tuple[str, str]]
    charts: Sequence[Chart]
    lists: Sequence[tuple[str, Sequence[ShownChange]]]
    steps: Sequence[str]


_GROUPS = (  # right before, right now, name, heading; what needs a look comes first
    (True, False, "Broken", "the {0} was right, the challenger is wrong"),
    (False, False, "Still wrong", "neither the {0} nor the challenger is right"),
    (False, True, "Fixed", "the {0} was wrong, the challenger is right"),
    (True, True, "Still right", "both the {0} and the challenger are right"),
)

_SHOWN_ANSWERS = 15
"""Answers of one kind that are shown at most."""

_WHOLE_NUMBERS = 1000
"""Values from here on are shown without decimals."""


def write_evaluate_report(path: Path, data: EvaluateReport) -> None:
    """Write the report atomically as one HTML file."""
    series = {BASE: data.nll_base, CHALLENGER: data.nll_tuned}
    series = {label: values for label, values in series.items() if len(values)}
    shown = [_shown(line, data.models) for line in data.metrics]
    write_page(
        path,
        "evaluate.html.j2",
        data=data,
        models=[(name, data.names[name]) for name in data.models],
        against=data.models[:-1],
        metrics=[
            (group, list(lines))
            for group, lines in itertools.groupby(shown, lambda metric: metric.line.group)
        ],
        groups=_groups(data),
        changes=_changes(data.comparison, data.replaced) if data.comparison else None,
        loss_chart=token_losses("Losses of held-out tokens", series, data.weight_curve)
        if series
        else None,
        series=list(series),
        bands=loss_bands(series, data.weight_curve),
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers of one kind: how many there are, and those that are shown."""

    name: str
    heading: str
    now_right: bool
    count: int
    shown: Sequence[Generation]


def _groups(data: EvaluateReport) -> list[_Answers]:
    groups = []
    for before, now, name, heading in _GROUPS:
        members = [
            answer
            for answer in data.generations
            if (answer.right[data.replaced], answer.right[CHALLENGER]) == (before, now)
        ]
        said = heading.format(data.replaced)
        groups.append(_Answers(name, said, now, len(members), members[:_SHOWN_ANSWERS]))
    return groups


def _shown(line: MetricLine, models: Sequence[str]) -> _ShownMetric:
    values = [line.values.get(model) for model in models]
    largest = max((abs(v.value) for v in values if v), default=0.0)
    decimals = 0 if largest >= _WHOLE_NUMBERS else 3
    return _ShownMetric(
        line,
        [_value(value, decimals) for value in values],
        [_difference(line, model, decimals) for model in models if model != CHALLENGER],
    )


def _value(found: Estimate | None, decimals: int) -> _Cell:
    if found is None:
        return _Cell("–")
    return _Cell(number(found.value, decimals), _interval(found, decimals))


def _interval(found: Estimate | Difference, decimals: int, sign: bool = False) -> str:
    if not math.isfinite(found.low + found.high):
        return ""
    ends = [number(end, decimals) for end in (found.low, found.high)]
    if sign:
        ends = [_signed(end, decimals) for end in (found.low, found.high)]
    return f"{ends[0]} to {ends[1]}"


def _signed(value: float, decimals: int) -> str:
    return ("+" if value > 0 else "") + number(value, decimals)


def _difference(line: MetricLine, model: str, decimals: int) -> _Cell:
    found = line.against.get(model)
    if found is None or not math.isfinite(found.value):
        return _Cell("–")
    text = _signed(found.value, decimals)
    before = line.values[model].value if model in line.values else 0.0
    if before and found.value and line.unit != "share":  # "+258 %" of a share says less
        relative = found.value / abs(before)
        text += f" ({'+' if relative > 0 else '−'}{percent(abs(relative))})"
    chance = f"p {number(found.p_value, 3)}" if math.isfinite(found.p_value) else ""
    return _Cell(text, _interval(found, decimals, sign=True), chance, _direction(line, found))


def _direction(line: MetricLine, found: Difference) -> str:
    """What a difference means: only where its whole interval lies on one side."""
    if found.low == found.high == 0:
        return "unchanged"
    if line.better == "none":
        return ""
    if found.low <= 0 <= found.high:
        return "not clear"
    return "better" if (found.high < 0) == (line.better == "lower") else "worse"


def _changes(comparison: Comparison, replaced: str) -> _Changes:
    shown = shown_comparison(comparison)
    by_row = [t - b for b, t in zip(comparison.base_nll, comparison.tuned_nll, strict=True)]
    label = f"challenger − {replaced}, nats"
    return _Changes(
        shown.sentence,
        shown.cards,
        [
            changes("Loss of a row", by_row, x_label=f"{label} per token", y_label="rows"),
            changes("Loss of a token", comparison.token_changes, x_label=label, y_label="tokens"),
        ],
        [
            ("Got worse", [row for row in shown.rows if row.change > SAME]),
            ("Got better", [row for row in shown.rows if row.change < -SAME]),
        ],
        shown.steps,
    )
