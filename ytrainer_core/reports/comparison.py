"""Two models on the same rows: where training made the answers likelier, and where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ytrainer_core.reports.answers import Cell, Stretch, crop, finite_mean, legend, level, pieces
from ytrainer_core.reports.figures import Chart, changes
from ytrainer_core.reports.render import inline, number, percent, whole

CHANGE_STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Nats of change at which a token's colour becomes stronger."""

SAME = 0.01
"""Nats by which the mean loss of a row may change and still count as the same."""

_NAMED = 3
"""Tokens of a row whose change is told in words."""


@dataclass(frozen=True, slots=True)
class ComparedToken:
    """One answer token with its loss in nats under both models.

    before: untrained text between the answer token before it and this one.
    """

    text: str
    base_nll: float
    tuned_nll: float
    before: str = ""

    @property
    def change(self) -> float:
        """Tuned minus base, nats: negative is better."""
        return self.tuned_nll - self.base_nll


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row that is shown."""

    origin: str
    prompt: str
    tokens: Sequence[ComparedToken]


@dataclass(frozen=True, slots=True)
class Comparison:
    """base, tuned: names of the models. rows: those to show, in any order.

    base_nll, tuned_nll: mean loss of every row of the corpus, nats per token.
    token_changes: tuned minus base of the answer tokens of the corpus, or of a sample of them,
    nats; without it the tokens of `rows` are counted.
    """

    base: str
    tuned: str
    rows: Sequence[ComparedRow]
    base_nll: Sequence[float]
    tuned_nll: Sequence[float]
    token_changes: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class ShownChange:
    """One row with its mean losses; named: (text, direction, numbers) of the largest changes."""

    row: ComparedRow
    base: float
    tuned: float
    change: float
    direction: str
    named: Sequence[tuple[str, str, str]]
    stretches: Sequence[Stretch]


@dataclass(frozen=True, slots=True)
class ShownComparison:
    """What the page shows; cards: (name, value)."""

    base: str
    tuned: str
    sentence: str
    cards: Sequence[tuple[str, str]]
    charts: Sequence[Chart]
    rows: Sequence[ShownChange]
    steps: Sequence[str]


def shown_comparison(data: Comparison) -> ShownComparison:
    """Sort the rows by the size of their change, count, and draw. Raises ValueError where
    base_nll and tuned_nll differ in length."""
    row_changes = [t - b for b, t in zip(data.base_nll, data.tuned_nll, strict=True)]
    shown_tokens = [token.change for row in data.rows for token in row.tokens]
    token_changes = data.token_changes if len(data.token_changes) else shown_tokens
    rows = sorted((_shown(row) for row in data.rows), key=lambda shown: -_size(shown.change))
    return ShownComparison(
        data.base,
        data.tuned,
        _sentence(data, row_changes),
        [
            *_counted("rows", row_changes, SAME),
            *_counted("tokens" if len(data.token_changes) else "tokens shown", token_changes),
        ],
        [
            changes(
                "Change of the mean loss of a row",
                row_changes,
                x_label="tuned − base, nats per token",
                y_label="rows",
            ),
            changes(
                "Change of the loss of a token",
                token_changes,
                x_label="tuned − base, nats",
                y_label="tokens",
            ),
        ],
        rows,
        legend(CHANGE_STEPS),
    )


def _sentence(data: Comparison, row_changes: Sequence[float]) -> str:
    both = [
        (b, t)
        for b, t in zip(data.base_nll, data.tuned_nll, strict=True)
        if math.isfinite(b) and math.isfinite(t)
    ]
    if not both:
        return "No rows to compare."
    base, tuned = (sum(column) / len(both) for column in zip(*both, strict=True))
    better = sum(change < -SAME for change in row_changes)
    worse = sum(change > SAME for change in row_changes)
    return (
        f"The mean loss of a row went from {number(base, 3)} to {number(tuned, 3)} nats per token; "
        f"{whole(better)} of {whole(len(row_changes))} rows became likelier, {whole(worse)} less "
        "likely."
    )


def _counted(
    kind: str, values: Sequence[float], same: float = CHANGE_STEPS[0]
) -> list[tuple[str, str]]:
    """How many became better and worse by more than `same`; NaN is neither."""
    total = max(1, len(values))
    better = sum(value < -same for value in values)
    worse = sum(value > same for value in values)
    return [
        (f"{kind} {name}", f"{whole(count)} ({percent(count / total)})")
        for name, count in (("better", better), ("worse", worse))
    ]


def _shown(row: ComparedRow) -> ShownChange:
    known = [t for t in row.tokens if math.isfinite(t.change)]
    base, tuned = finite_mean(t.base_nll for t in known), finite_mean(t.tuned_nll for t in known)
    groups = [row.tokens[start:end] for start, end in pieces([t.text for t in row.tokens])]
    spoken = [max(group, key=lambda token: _size(token.change)) for group in groups]
    cells = [_cell(group, token) for group, token in zip(groups, spoken, strict=True)]
    most = sorted(range(len(spoken)), key=lambda i: -_size(spoken[i].change))[:_NAMED]
    most = [i for i in most if _size(spoken[i].change) >= CHANGE_STEPS[0]]
    return ShownChange(
        row,
        base,
        tuned,
        tuned - base,
        _direction(tuned - base, SAME),
        [_named(groups[i], spoken[i]) for i in most],
        crop(cells, most),
    )


def _size(change: float) -> float:
    """How far a change goes, either way; what is not a number goes nowhere."""
    return -1.0 if math.isnan(change) else abs(change)


def _direction(change: float, same: float) -> str:
    if math.isnan(change):
        return "unknown"
    return "better" if change < -same else "worse" if change > same else "the same"


def _named(group: Sequence[ComparedToken], token: ComparedToken) -> tuple[str, str, str]:
    text = inline("".join(t.text for t in group)).strip(" ") or "␣"
    return f"“{text}”", _direction(token.change, 0.0), _numbers(token)


def _numbers(token: ComparedToken) -> str:
    return f"{number(token.base_nll, 2)} → {number(token.tuned_nll, 2)}"


def _cell(group: Sequence[ComparedToken], token: ComparedToken) -> Cell:
    letter = "w" if token.change > 0 else "b"
    return Cell(
        "".join(t.text for t in group),
        level(letter, abs(token.change), CHANGE_STEPS),
        f"loss {_numbers(token)} nats",
        group[0].before,
    )
