"""The report of the score stage: the most suspicious rows, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.reports.answers import finite_mean, legend
from ytrainer_core.reports.comparison import (
    ComparedRow,
    ComparedToken,
    Comparison,
    shown_comparison,
)
from ytrainer_core.reports.figures import Band, Curve, distribution, loss_bands, token_losses
from ytrainer_core.reports.render import number, percent, whole, write_page
from ytrainer_core.reports.scored_row import (
    ENTROPY_STEPS,
    LOSS_STEPS,
    ScoredRow,
    ScoredToken,
    shown_row,
)
from ytrainer_core.reports.token_text import token_texts

__all__ = [
    "ComparedRow",
    "ComparedToken",
    "Comparison",
    "ScoreReport",
    "ScoredRow",
    "ScoredToken",
    "token_texts",
    "write_score_report",
]

PATTERNS = {
    "confident_error": "sure, and wrong: a label error or a false fact",
    "hard": "wrong, and knows it: simply difficult",
    "lucky": "unsure, yet right",
    "suspicious": "loss above the mean although the model was sure",
    "normal": "nothing unusual",
}

METHODS = {
    "anomaly": "divergence of loss and entropy over the abnormal tokens of a row, per token",
    "corpus_anomaly": "the same divergence, measured against the whole corpus",
    "mean_loss": "mean loss of the answer tokens, nats",
    "certain_loss": "worst window of loss where the model was certain",
    "surprise": "worst window of loss beyond the model's own entropy, nats",
    "opening": "loss beyond the model's own entropy over the first tokens of the answer, nats",
    "ending": "loss beyond the model's own entropy where the answer ends, nats",
    "ifd": "perplexity of the answer given its prompt, over that of the answer alone",
    "self_confidence_min": "loss of the least likely token, nats",
    "self_confidence_softmin": "soft maximum of the token losses, nats",
    "combined": "how far the answer, its worst token, word and phrase, and its two ends stand out",
}


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """rows: worst first, about 30; scores: of all rows; nll: of all answer tokens, nats.

    weight_curve: (nll, weight on the loss); patterns: pattern -> share of the tokens.
    comparison: the same rows under two models, on a page of its own.
    """

    title: str
    method: str
    rows: Sequence[ScoredRow]
    scores: Sequence[float]
    flag_threshold: float
    nll: Sequence[float]
    weight_curve: Curve
    patterns: Mapping[str, float]
    comparison: Comparison | None = None


def write_score_report(path: Path, data: ScoreReport) -> None:
    """Write the report atomically as one HTML file."""
    series = {"answer tokens": data.nll}
    bands = loss_bands(series, data.weight_curve)
    corpus_mean = finite_mean(data.nll)
    write_page(
        path,
        "score.html.j2",
        data=data,
        rows=[shown_row(row, corpus_mean, data.method) for row in data.rows],
        summary=_summary(data),
        method_line=METHODS.get(data.method, ""),
        patterns=[
            (name.replace("_", " "), share, percent(share), PATTERNS.get(name, ""))
            for name, share in data.patterns.items()
        ],
        loss_steps=legend(LOSS_STEPS),
        entropy_steps=legend(ENTROPY_STEPS),
        score_chart=distribution(
            "Scores of all rows",
            data.scores,
            x_label=f"score ({data.method}); higher is more suspicious",
            mark=data.flag_threshold,
            mark_label=f"flagged from {number(data.flag_threshold)}",
        ),
        loss_chart=token_losses("Losses of all answer tokens", series, data.weight_curve),
        series=list(series),
        bands=bands,
        weight_line=_weight_line(bands) if data.weight_curve else "",
        comparison=shown_comparison(data.comparison) if data.comparison else None,
    )


def _summary(data: ScoreReport) -> str:
    rows = f"{whole(len(data.scores))} rows"
    if not len(data.scores):
        return "No rows were scored."
    if not math.isfinite(data.flag_threshold):
        return f"None of {rows} is flagged."
    flagged = sum(score >= data.flag_threshold for score in data.scores if math.isfinite(score))
    threshold = number(data.flag_threshold)
    return f"{whole(flagged)} of {rows} lie at or above the flag threshold of {threshold}."


def _weight_line(bands: Sequence[Band]) -> str:
    """Say which band of losses holds the most weight."""
    known = [band for band in bands if math.isfinite(band.weight[0])]
    if not known:
        return ""
    band = max(known, key=lambda band: band.weight[0])
    weight, tokens = percent(band.weight[0]), percent(band.tokens[0])
    return (
        f"Under NLIRG the largest share of the weight, {weight}, would fall on the {tokens} of the "
        f"tokens with a loss of {band.label} nats."
    )
