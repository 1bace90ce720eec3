"""How well scores rank what is wrong above what is right: AUROC, AUPRC, their intervals.

A resample of the rows is how often each was drawn, so all of them are counted in one pass over
the rows in order of their score. Ties count as half right (AUROC), or as one step (AUPRC).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % bootstrap interval."""


def resamples(rows: int, count: int, seed: int) -> Floats:
    """[1 + count, rows]: how often each row is drawn; the first line is the rows themselves."""
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=count)
    return np.concatenate([np.ones((1, rows)), drawn])


def auroc(scores: Floats, wrong: Flags, drawn: Floats) -> Floats:
    """[resamples]: chance that a wrong row scores higher than a right one; a tie counts half.

    scores, wrong: [rows]. drawn: [resamples, rows], as `resamples` makes them. NaN where a
    resample lacks one or the other.
    """
    bad, good = _by_score(scores, wrong, drawn)
    above = np.cumsum(bad, axis=1) - bad  # wrong rows of a greater score than each group
    pairs = bad.sum(axis=1) * good.sum(axis=1)
    with np.errstate(invalid="ignore"):
        area: Floats = (good * (above + bad / 2)).sum(axis=1) / pairs
    return area


def average_precision(scores: Floats, wrong: Flags, drawn: Floats) -> Floats:
    """[resamples]: area under the precision-recall curve, as a sum of steps over the recall."""
    bad, good = _by_score(scores, wrong, drawn)
    found, seen = np.cumsum(bad, axis=1), np.cumsum(bad + good, axis=1)
    with np.errstate(invalid="ignore"):
        precision = np.where(seen > 0, found / np.maximum(seen, 1), 0)
        area: Floats = (precision * bad).sum(axis=1) / bad.sum(axis=1)
    return area


def precision_at(scores: Floats, wrong: Flags, count: int) -> float:
    """Share of wrong rows among the `count` highest scores; ties in the order of the rows."""
    return float(wrong[np.argsort(-scores, kind="stable")[:count]].mean())


def interval(values: Floats) -> tuple[float, float, float]:
    """(value of the rows themselves, 2.5th and 97.5th percentile of the resamples)."""
    low, high = np.nanpercentile(values[1:], INTERVAL)
    return float(values[0]), float(low), float(high)


def _by_score(scores: Floats, wrong: Flags, drawn: Floats) -> tuple[Floats, Floats]:
    """[resamples, distinct scores] of wrong and of right rows, highest score first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    weights, flags = drawn[:, order], wrong[order]
    bad = np.add.reduceat(weights * flags, starts, axis=1)
    good = np.add.reduceat(weights * ~flags, starts, axis=1)
    return bad, good
