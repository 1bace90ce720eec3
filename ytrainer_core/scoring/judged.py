"""A whole corpus judged row by row: a few numbers for each row, whatever the rows' lengths."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import ScoreConfig
from ytrainer_core.scoring.quality import PATTERNS, row_quality
from ytrainer_core.scoring.scores import SCORES, CorpusStatistics
from ytrainer_core.scoring.signals import RowSignals


@dataclass(frozen=True)
class JudgedCorpus:
    """What the signals say of every row, in corpus order.

    score: [rows] by the configured method, higher is more suspicious; scores: the same by every
    method, NaN for a row that has none. mean_nll, mean_entropy: [rows], nats per target.
    patterns: targets by the name of their pattern.
    """

    score: npt.NDArray[np.float64]
    scores: dict[str, npt.NDArray[np.float64]]
    mean_nll: npt.NDArray[np.float64]
    mean_entropy: npt.NDArray[np.float64]
    patterns: dict[str, int]

    def worst(self) -> npt.NDArray[np.int64]:
        """Row numbers, most suspicious first; equal ones in the order of the corpus."""
        return np.argsort(-self.score, kind="stable")

    def scores_of(self, row: int) -> dict[str, float]:
        """The scores of one row by method, those that it has."""
        found = {method: float(values[row]) for method, values in self.scores.items()}
        return {method: score for method, score in found.items() if not math.isnan(score)}

    def flagged(self, config: ScoreConfig) -> tuple[npt.NDArray[np.bool_], float]:
        """([rows] whether it is flagged, the score from which on rows are); infinity flags none."""
        if config.action == "keep" or not len(self.score):
            threshold = math.inf
        elif config.flag_above:
            threshold = config.flag_above
        else:
            threshold = flag_threshold(self.score, config.flag_fraction)
        return self.score >= threshold, threshold


def judge_corpus(
    rows: Iterable[RowSignals], statistics: CorpusStatistics, config: ScoreConfig
) -> JudgedCorpus:
    """Judge every row, one after the other. Raises ConfigError as `row_quality` does."""
    columns = {name: array("d") for name in ("score", "mean_nll", "mean_entropy")}
    scores = {method: array("d") for method in SCORES}
    patterns = np.zeros(len(PATTERNS), np.int64)
    for row in rows:
        quality = row_quality(row, statistics, config)
        for name, column in columns.items():
            column.append(getattr(quality, name))
        for method, column in scores.items():
            column.append(quality.scores.get(method, math.nan))
        patterns += np.bincount(quality.patterns, minlength=len(PATTERNS))
    made = {method: np.frombuffer(column) for method, column in scores.items()}
    return JudgedCorpus(
        **{name: np.frombuffer(column) for name, column in columns.items()},
        scores={method: column for method, column in made.items() if not np.isnan(column).all()},
        patterns=dict(zip(PATTERNS, patterns.tolist(), strict=True)),
    )


def flag_threshold(scores: npt.NDArray[np.float64], fraction: float) -> float:
    """Score from which on the worst rows lie, `fraction` of all at most; infinity flags none.

    Rows of equal score are flagged together or not at all: where most rows score 0, these are not.
    """
    count = int(round(len(scores) * fraction, 6))  # 100 x 0.29 is 28.999999999999996
    values, rows = np.unique(-scores, return_counts=True)  # highest score first
    fits = np.cumsum(rows) <= count
    return float(-values[fits][-1]) if fits.any() else math.inf
