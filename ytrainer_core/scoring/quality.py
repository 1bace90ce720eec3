"""Which rows look wrong: patterns over a row's loss and entropy, spans, one score a row.

A token is abnormal where loss and entropy stand apart: the model is sure and
wrong, or both are high, or it was lucky. Source of patterns and thresholds: the
published scorer as the project's facts define it. Departures: lucky tokens do not
raise the score, and short rows are measured against the corpus, because one or
two tokens have no deviation of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import ScoreConfig
from ytrainer_core.scoring.signals import RowSignals

Floats = npt.NDArray[np.float64]

PATTERNS = ("normal", "confident_error", "hard", "lucky", "suspicious")
NORMAL, CONFIDENT_ERROR, HARD, LUCKY, SUSPICIOUS = range(len(PATTERNS))

_TINY = 1e-6
"""Standard deviation, in nats, below which signals count as constant."""


@dataclass(frozen=True)
class CorpusStatistics:
    """Mean and standard deviation of nll and entropy over the whole corpus, in nats."""

    nll_mean: float
    nll_std: float
    entropy_mean: float
    entropy_std: float


@dataclass(frozen=True)
class RowQuality:
    """What the signals say of one row.

    score: higher is more suspicious. patterns: [targets], index into PATTERNS.
    spans: [start, end) over the targets, most severe first.
    """

    score: float
    mean_nll: float
    mean_entropy: float
    patterns: npt.NDArray[np.int8]
    spans: list[tuple[int, int]]


def corpus_statistics(rows: Sequence[RowSignals]) -> CorpusStatistics:
    """Statistics over every target of the corpus."""
    nll = np.concatenate([row.nll for row in rows]).astype(np.float64)
    entropy = np.concatenate([row.entropy for row in rows]).astype(np.float64)
    return CorpusStatistics(
        float(nll.mean()), float(nll.std()), float(entropy.mean()), float(entropy.std())
    )


def smooth(values: Floats, window: int) -> Floats:
    """Centred moving average; at the ends over what there is."""
    kernel = np.ones(window)
    sums = np.convolve(values, kernel, mode="same")[: len(values)]
    counts = np.convolve(np.ones_like(values), kernel, mode="same")[: len(values)]
    smoothed: Floats = sums / counts
    return smoothed


def z_scores(values: Floats, mean: float, std: float) -> Floats:
    """(values - mean) / std, zero where there is no deviation."""
    scores: Floats = (values - mean) / std if std > _TINY else np.zeros_like(values)
    return scores


def row_quality(row: RowSignals, corpus: CorpusStatistics, config: ScoreConfig) -> RowQuality:
    """Patterns, spans and score of one row."""
    nll, entropy = row.nll.astype(np.float64), row.entropy.astype(np.float64)
    if not nll.size:
        return RowQuality(0.0, 0.0, 0.0, np.zeros(0, np.int8), [])
    z_nll, z_entropy = _row_z(nll, entropy, corpus, config)
    divergence = z_nll - z_entropy
    patterns = _patterns(nll, z_nll, z_entropy, config)
    score = _SCORES[config.method](nll, entropy, patterns, divergence)
    return RowQuality(
        score=float(score),
        mean_nll=float(nll.mean()),
        mean_entropy=float(entropy.mean()),
        patterns=patterns,
        spans=_spans(patterns, divergence, config),
    )


def _row_z(
    nll: Floats, entropy: Floats, corpus: CorpusStatistics, config: ScoreConfig
) -> tuple[Floats, Floats]:
    window = min(config.smoothing_window, len(nll))
    nll, entropy = smooth(nll, window), smooth(entropy, window)
    if len(nll) < config.min_tokens:
        return (
            z_scores(nll, corpus.nll_mean, corpus.nll_std),
            z_scores(entropy, corpus.entropy_mean, corpus.entropy_std),
        )
    return (
        z_scores(nll, float(nll.mean()), float(nll.std())),
        z_scores(entropy, float(entropy.mean()), float(entropy.std())),
    )


def _patterns(
    nll: Floats, z_nll: Floats, z_entropy: Floats, config: ScoreConfig
) -> npt.NDArray[np.int8]:
    z = config.abnormal_z
    patterns = np.full(len(nll), NORMAL, np.int8)
    patterns[(nll > nll.mean()) & (z_entropy < config.suspicious_entropy_z)] = SUSPICIOUS
    patterns[(z_nll < -z) & (z_entropy > z)] = LUCKY
    patterns[(z_nll > z) & (z_entropy > z)] = HARD
    patterns[(z_nll > z) & (z_entropy < -z)] = CONFIDENT_ERROR
    return patterns


def _spans(
    patterns: npt.NDArray[np.int8], divergence: Floats, config: ScoreConfig
) -> list[tuple[int, int]]:
    abnormal = np.isin(patterns, (CONFIDENT_ERROR, HARD, SUSPICIOUS))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], abnormal.astype(np.int8), [0]])))
    spans = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    kept = [span for span in spans if divergence[slice(*span)].max() >= config.span_divergence]
    return sorted(kept, key=lambda span: -divergence[slice(*span)].max())


def _anomaly(
    nll: Floats, entropy: Floats, patterns: npt.NDArray[np.int8], divergence: Floats
) -> float:
    abnormal = (patterns != NORMAL) & (patterns != LUCKY)
    return float(np.abs(divergence[abnormal]).sum() / len(nll))


def _mean_loss(
    nll: Floats, entropy: Floats, patterns: npt.NDArray[np.int8], divergence: Floats
) -> float:
    return float(nll.mean())


_SURPRISE_WINDOW = 5
"""Tokens of the window whose mean surprise is the row's score: about one wrong word."""


def _surprise(
    nll: Floats, entropy: Floats, patterns: npt.NDArray[np.int8], divergence: Floats
) -> float:
    """Worst window of loss minus what the model itself expected to lose (its entropy)."""
    return float(smooth(nll - entropy, min(_SURPRISE_WINDOW, len(nll))).max())


_Score = Callable[[Floats, Floats, npt.NDArray[np.int8], Floats], float]
_SCORES: dict[str, _Score] = {
    "anomaly": _anomaly,
    "mean_loss": _mean_loss,
    "surprise": _surprise,
}


def flag_threshold(scores: Sequence[float], fraction: float) -> float:
    """Score from which on the worst `fraction` of the rows lies; infinity flags none."""
    count = int(round(len(scores) * fraction, 6))  # 100 x 0.29 is 28.999999999999996
    return sorted(scores, reverse=True)[count - 1] if count else float("inf")
