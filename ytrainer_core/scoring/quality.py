"""Which rows look wrong: patterns over a row's loss and entropy, spans, scores.

A token is abnormal where loss and entropy stand apart: the model is sure and
wrong, or both are high, or it was lucky. Source of patterns and thresholds: the
published scorer as the project's facts define it. Departures: lucky tokens do not
raise a score, and short rows are measured against the corpus, because one or
two tokens have no deviation of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import ScoreConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.scoring.scores import (
    Anomalies,
    Answer,
    CorpusStatistics,
    Floats,
    RowView,
    corpus_statistics,
    row_scores,
    smooth,
    z_scores,
)
from ytrainer_core.scoring.signals import RowSignals

__all__ = [
    "PATTERNS",
    "CorpusStatistics",
    "RowQuality",
    "corpus_statistics",
    "row_quality",
]

PATTERNS = ("normal", "confident_error", "hard", "lucky", "suspicious")
SPANS = 3
"""Runs of surprising tokens that a person is pointed to: a fourth would hide the first."""

NORMAL, CONFIDENT_ERROR, HARD, LUCKY, SUSPICIOUS = range(len(PATTERNS))


@dataclass(frozen=True)
class RowQuality:
    """What the signals say of one row.

    score: by the configured method; higher is more suspicious. patterns: [targets], index into
    PATTERNS. spans: [start, end) over the targets, most severe first. scores: by every method.
    """

    score: float
    mean_nll: float
    mean_entropy: float
    patterns: npt.NDArray[np.int8]
    spans: list[tuple[int, int]]
    scores: dict[str, float] = field(default_factory=dict)


def row_quality(row: RowSignals, corpus: CorpusStatistics, config: ScoreConfig) -> RowQuality:
    """Patterns, spans and scores of one row; a row without targets has score 0.

    Raises ConfigError where score.method needs signals that were not asked for.
    """
    if not row.nll.size:
        return RowQuality(0.0, 0.0, 0.0, np.zeros(0, np.int8), [])
    answer = Answer.of(row)
    window = config.smoothing_window
    nll, entropy = smooth(answer.nll, window), smooth(answer.entropy, window)
    global_z = (
        z_scores(nll, corpus.nll_mean, corpus.nll_std),
        z_scores(entropy, corpus.entropy_mean, corpus.entropy_std),
    )
    row_z = global_z
    if len(nll) >= config.min_tokens:
        row_z = (
            z_scores(nll, float(nll.mean()), float(nll.std())),
            z_scores(entropy, float(entropy.mean()), float(entropy.std())),
        )
    patterns = _patterns(answer.nll > answer.nll.mean(), *row_z, config)
    in_corpus = _patterns(answer.nll > corpus.nll_mean, *global_z, config)
    within = Anomalies(_abnormal(patterns), row_z[0] - row_z[1])
    against_corpus = Anomalies(_abnormal(in_corpus), global_z[0] - global_z[1])
    scores = row_scores(RowView(answer, within, against_corpus, corpus))
    if config.method not in scores:
        raise ConfigError(
            f"score.method={config.method} needs the loss without the prompt, a second pass. "
            "Set score.ifd=true."
        )
    return RowQuality(
        score=scores[config.method],
        mean_nll=float(answer.nll.mean()),
        mean_entropy=float(answer.entropy.mean()),
        patterns=patterns,
        spans=_spans(answer, within, config),
        scores=scores,
    )


def _patterns(
    above_mean: npt.NDArray[np.bool_], z_nll: Floats, z_entropy: Floats, config: ScoreConfig
) -> npt.NDArray[np.int8]:
    z = config.abnormal_z
    patterns = np.full(len(z_nll), NORMAL, np.int8)
    patterns[above_mean & (z_entropy < config.suspicious_entropy_z)] = SUSPICIOUS
    patterns[(z_nll < -z) & (z_entropy > z)] = LUCKY
    patterns[(z_nll > z) & (z_entropy > z)] = HARD
    patterns[(z_nll > z) & (z_entropy < -z)] = CONFIDENT_ERROR
    return patterns


def _abnormal(patterns: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    abnormal: npt.NDArray[np.bool_] = (patterns != NORMAL) & (patterns != LUCKY)
    return abnormal


def _spans(answer: Answer, row: Anomalies, config: ScoreConfig) -> list[tuple[int, int]]:
    """Where a person shall look, most severe first."""
    if config.spans == "surprise":
        runs = _runs(answer.surprise > config.span_surprise)
        severity = {run: float(answer.surprise[slice(*run)].sum()) for run in runs}
        return sorted(runs, key=lambda run: -severity[run])[:SPANS]
    runs = _runs(row.abnormal)
    severity = {run: float(row.divergence[slice(*run)].max()) for run in runs}
    kept = [run for run in runs if severity[run] >= config.span_divergence]
    return sorted(kept, key=lambda run: -severity[run])


def _runs(marked: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, end) of every run of marked tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
