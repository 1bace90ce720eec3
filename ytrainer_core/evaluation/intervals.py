"""How sure a metric is: bootstrap intervals over rows, and paired tests between two models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_DRAWS_AT_ONCE = 2_000_000
"""Drawn row numbers held in memory at once: 16 MB of them."""

_ROUNDING = 1e-12
"""Relative error of a sum in float64; two statistics closer than this are the same."""


@dataclass(frozen=True)
class RowValues:
    """A metric, row by row: its value is sums.sum() / counts.sum().

    sums, counts: [rows], float64. The counts are 1 for a mean over rows; for a mean over tokens,
    such as a loss, they are the tokens of each row.
    """

    sums: Floats
    counts: Floats

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its interval from low to high, and the rows behind it."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Difference:
    """How much one model's value exceeds another's on the same rows.

    p_value: how often a difference at least as large would come about if it were chance which
    model gave which value of a row.
    """

    value: float
    low: float
    high: float
    p_value: float
    rows: int


def row_means(values: npt.ArrayLike) -> RowValues:
    """A metric that is a plain mean of one value a row. values: [rows]."""
    sums = np.asarray(values, dtype=np.float64)
    return RowValues(sums, np.ones_like(sums))


def estimate(
    values: RowValues, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """A metric with its interval: `confidence` of the values it takes on resampled rows.

    One row, or a value that is not finite, has an interval without width. Raises ValueError
    where there are no rows or nothing was counted.
    Source: Efron 1979; the percentile interval of Efron and Tibshirani 1993, §13.3.
    """
    rows = _rows(values)
    value = values.value
    if not np.isfinite(value):
        return Estimate(value, value, value, rows)
    drawn = [_ratio(values, chosen) for chosen in _resampled(rows, resamples, seed)]
    return Estimate(value, *_interval(np.concatenate(drawn), confidence), rows)


def difference(
    first: RowValues,
    second: RowValues,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    relative: bool = False,
) -> Difference:
    """first - second, or first / second - 1 where relative, both measured on the same rows.

    The interval is a bootstrap that draws the same rows for both. The p-value is two-sided, of a
    permutation test: each row's two values change places or do not, by chance; all ways are gone
    through where they are at most `resamples`. Raises ValueError where the two have not equally
    many rows, there are none, or nothing was counted.
    Source: Fisher 1935, §21; Good 2005, §3.2 and §5.3.
    """
    rows = _rows(first)
    if rows != _rows(second):
        raise ValueError(f"{rows} rows cannot be paired with {len(second.sums)}.")
    value = float(_distance(np.asarray(first.value), np.asarray(second.value), relative))
    if not np.isfinite(value):
        return Difference(value, value, value, float("nan"), rows)
    drawn = [
        _distance(_ratio(first, chosen), _ratio(second, chosen), relative)
        for chosen in _resampled(rows, resamples, seed)
    ]
    low, high = _interval(np.concatenate(drawn), confidence)
    return Difference(value, low, high, _p_value(first, second, resamples, seed), rows)


def _rows(values: RowValues) -> int:
    if len(values.sums) != len(values.counts):
        raise ValueError(f"{len(values.sums)} sums do not fit {len(values.counts)} counts.")
    if not values.counts.sum() > 0:
        raise ValueError("There are no rows to measure, or none of them counts anything.")
    return len(values.sums)


def _resampled(rows: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers drawn with replacement, [some resamples, rows] at a time."""
    random = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        yield random.integers(0, rows, size=(min(step, resamples - start), rows))


def _ratio(values: RowValues, chosen: npt.NDArray[np.int64]) -> Floats:
    """The metric of every resample, [resamples]; nan where a resample counts nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = values.sums[chosen].sum(axis=1) / values.counts[chosen].sum(axis=1)
    return ratio


def _distance(first: Floats, second: Floats, relative: bool) -> Floats:
    """first - second, or the same as a share of second: 0 where both are equal, 0 included."""
    distance: Floats = first - second
    if not relative:
        return distance
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(distance == 0, 0.0, distance / second)


def _interval(drawn: Floats, confidence: float) -> tuple[float, float]:
    """The drawn values that cut off as much on either side; outwards where between two of them."""
    outside = (1 - confidence) / 2
    counted = drawn[~np.isnan(drawn)]
    low = np.quantile(counted, outside, method="lower")
    high = np.quantile(counted, 1 - outside, method="higher")
    return float(low), float(high)


def _p_value(first: RowValues, second: RowValues, resamples: int, seed: int) -> float:
    """Share of the exchanges whose difference is at least as large, the sign aside.

    A random choice of exchanges counts the observed one among them, so that p is never 0.
    """
    observed = abs(first.value - second.value)
    reach = observed - _ROUNDING * max(abs(first.value), abs(second.value))
    rows = len(first.sums)
    extreme = tried = 0
    for swap in _exchanges(rows, resamples, seed):
        one = _swapped(first, second, swap)
        other = _swapped(second, first, swap)
        extreme += int(np.count_nonzero(np.abs(one - other) >= reach))
        tried += len(swap)
    if _all_exchanges(rows, resamples):
        return extreme / tried
    return (extreme + 1) / (tried + 1)


def _all_exchanges(rows: int, resamples: int) -> bool:
    return rows < resamples.bit_length()  # 2**rows <= resamples


def _exchanges(rows: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Which rows change places, [some exchanges, rows] at a time."""
    if _all_exchanges(rows, resamples):
        yield (np.arange(2**rows)[:, None] >> np.arange(rows)) & 1 == 1
        return
    random = np.random.default_rng([seed, rows])
    step = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        yield random.integers(0, 2, size=(min(step, resamples - start), rows), dtype=np.bool_)


def _swapped(first: RowValues, second: RowValues, swap: npt.NDArray[np.bool_]) -> Floats:
    """The metric of `first` with the rows to swap taken from `second`, [exchanges].

    Rows that count differently in the two may leave one exchange with nothing counted: nan,
    which is no difference at all.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = np.where(swap, second.sums, first.sums).sum(axis=1) / np.where(
            swap, second.counts, first.counts
        ).sum(axis=1)
    return ratio
