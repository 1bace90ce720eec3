"""The report of the score stage: the most suspicious rows, token by token."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.reports.figures import Curve, distribution, loss_bands, token_losses
from ytrainer_core.reports.render import inline, number, percent, write_page

LOSS_STEPS = (0.5, 1.2, 3.0, 6.2, 10.0)
"""Nats at which the colour of a token's loss becomes stronger."""

ENTROPY_STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Nats at which the colour of a token's entropy becomes stronger."""

MOST_TOKENS = 1_500
"""Tokens of one row that are shown; the rest is counted."""

PATTERNS = {
    "confident_error": "sure, and wrong: a label error or a false fact",
    "hard": "wrong, and knows it: simply difficult",
    "lucky": "unsure, yet right",
    "suspicious": "loss above the mean although the model was sure",
    "normal": "nothing unusual",
}

METHODS = {
    "anomaly": "divergence of loss and entropy over the abnormal tokens of a row, per token",
    "mean_loss": "mean loss of the answer tokens, nats",
    "surprise": "worst window of loss × certainty",
}


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One answer token: nll and entropy in nats; `expected` is what the model would have said."""

    text: str
    nll: float
    entropy: float
    expected: str = ""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row; `spans` are suspicious stretches of `tokens` as (start, end), end exclusive."""

    origin: str
    score: float
    flagged: bool
    prompt: str
    tokens: Sequence[ScoredToken]
    spans: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """rows: worst first, about 30; scores: of all rows; nll: of all answer tokens, nats.

    weight_curve: (nll, weight on the loss); patterns: pattern -> share of the tokens.
    """

    title: str
    method: str
    rows: Sequence[ScoredRow]
    scores: Sequence[float]
    flag_threshold: float
    nll: Sequence[float]
    weight_curve: Curve
    patterns: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    classes: str
    tip: str


@dataclass(frozen=True, slots=True)
class _ShownRow:
    row: ScoredRow
    cells: Sequence[_Cell]
    hidden_tokens: int
    spans: Sequence[str]


def write_score_report(path: Path, data: ScoreReport) -> None:
    """Write the report atomically as one HTML file."""
    finite = [score for score in data.scores if math.isfinite(score)]
    series = {"answer tokens": data.nll}
    write_page(
        path,
        "score.html.j2",
        data=data,
        rows=[_shown(row) for row in data.rows],
        method_line=METHODS.get(data.method, ""),
        flagged=sum(score >= data.flag_threshold for score in finite),
        patterns=[
            (name.replace("_", " "), share, percent(share), PATTERNS.get(name, ""))
            for name, share in data.patterns.items()
        ],
        loss_steps=_legend(LOSS_STEPS),
        entropy_steps=_legend(ENTROPY_STEPS),
        score_chart=distribution(
            "Scores of all rows",
            data.scores,
            x_label=f"score ({data.method}); higher is more suspicious",
            mark=data.flag_threshold,
            mark_label=f"flagged from {number(data.flag_threshold)}",
        ),
        loss_chart=token_losses("Losses of all answer tokens", series, data.weight_curve),
        series=list(series),
        bands=loss_bands(series, data.weight_curve),
    )


def _shown(row: ScoredRow) -> _ShownRow:
    marked = {index for start, end in row.spans for index in range(start, end)}
    return _ShownRow(
        row,
        [_cell(token, index in marked) for index, token in enumerate(row.tokens[:MOST_TOKENS])],
        max(0, len(row.tokens) - MOST_TOKENS),
        [
            inline("".join(token.text for token in row.tokens[start:end])).strip()
            for start, end in row.spans
        ],
    )


def _cell(token: ScoredToken, suspicious: bool) -> _Cell:
    classes = [_level("l", token.nll, LOSS_STEPS), _level("e", token.entropy, ENTROPY_STEPS)]
    if suspicious:
        classes.append("sus")
    tip = f"loss {number(token.nll, 2)} · entropy {number(token.entropy, 2)} nats"
    if token.expected:
        tip += f" · expected “{inline(token.expected)}”"
    return _Cell(token.text, " ".join(filter(None, classes)), tip)


def _level(letter: str, value: float, steps: Sequence[float]) -> str:
    if math.isnan(value):
        return f"{letter}x"
    level = bisect.bisect_right(steps, value)
    return f"{letter}{level}" if level else ""


def _legend(steps: Sequence[float]) -> list[str]:
    middle = [f"{low:g}–{high:g}" for low, high in itertools.pairwise(steps)]
    return [f"< {steps[0]:g}", *middle, f"≥ {steps[-1]:g}"]
