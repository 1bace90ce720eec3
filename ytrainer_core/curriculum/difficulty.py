"""How difficult each row is, by the mode of the order.

A difficulty is NaN where it is not defined: of a row without targets, of one whose signals hold
NaN or infinity, and for `similarity` also of one whose loss or entropy does not vary (a single
token, for one). Where such rows stand in the order is said in `order.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.signals import Floats, Ints, SignalBatch

_TINY = 1e-6
"""Standard deviation, in nats, below which a row counts as constant."""


def similarity(batch: SignalBatch, config: OrderConfig) -> Floats:
    """-cos(z(entropy), z(nll)), in [-1, 1]: easy where a model is unsure exactly where it is wrong.

    z-scores are of the row itself, so that their cosine is Pearson's correlation. Published mode;
    source: facts/algorithms.md §4.
    """
    nll = batch.nll - batch.means(batch.nll)[batch.row]
    entropy = batch.entropy - batch.means(batch.entropy)[batch.row]
    deviation = np.sqrt(batch.means(nll**2)), np.sqrt(batch.means(entropy**2))
    varies = (deviation[0] > _TINY) & (deviation[1] > _TINY)
    product = np.where(varies, deviation[0] * deviation[1], np.nan)
    return -batch.means(nll * entropy) / product


def filtered(batch: SignalBatch, config: OrderConfig) -> Floats:
    """Tokens of high loss: 1 each where the model is sure, 0.5 each where it is not.

    Published mode; source: facts/algorithms.md §4.
    """
    far = batch.nll > config.filtered_min_nll
    unsure = batch.entropy > config.filtered_entropy_split
    return batch.sums(np.where(unsure, 0.5, 1.0) * far)


def mean_loss(batch: SignalBatch, config: OrderConfig) -> Floats:
    """Mean nll, nats per target."""
    return batch.means(batch.nll)


def mean_entropy(batch: SignalBatch, config: OrderConfig) -> Floats:
    """Mean entropy, nats per target."""
    return batch.means(batch.entropy)


def length(batch: SignalBatch, config: OrderConfig) -> Floats:
    """Targets."""
    return batch.counts.astype(np.float64)


Difficulty = Callable[[SignalBatch, OrderConfig], Floats]

DIFFICULTIES: dict[str, Difficulty] = {
    "similarity": similarity,
    "filtered": filtered,
    "mean_loss": mean_loss,
    "entropy": mean_entropy,
    "length": length,
}
"""Mode -> difficulty [rows] of some rows from the signals of their targets."""

UNSORTED = ("none", "file", "random")
"""Modes that look at no signal."""


def difficulties(
    batches: Iterable[SignalBatch], groups: Ints, config: OrderConfig, seed: int
) -> Floats:
    """[rows], in file order: the difficulty of every row, NaN where it is not defined.

    For `none` and `file` the row's number; for `random` a draw for each group and, within it, for
    each row. groups: [rows], the number of the group that a row is in; its own where rows do not
    stay together.
    """
    if config.mode == "random":
        draw = np.random.default_rng(seed)
        return draw.permutation(len(groups))[groups] + draw.random(len(groups))
    if config.mode in UNSORTED:
        return np.arange(len(groups), dtype=np.float64)
    found = [_rated(batch, config) for batch in batches]
    return np.concatenate(found) if found else np.empty(0)


def _rated(batch: SignalBatch, config: OrderConfig) -> Floats:
    broken = batch.sums(~(np.isfinite(batch.nll) & np.isfinite(batch.entropy))) > 0
    with np.errstate(invalid="ignore"):  # infinity less infinity
        rated = DIFFICULTIES[config.mode](batch, config)
    return np.where(broken | (batch.counts == 0), np.nan, rated)
