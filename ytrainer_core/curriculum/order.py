"""From difficulties to the permutation in which training sees the rows.

First all groups of rows are sorted, easy ones first (hard ones first where the order descends):
a group by the mean difficulty of its rows, ties by their place in the file. A row whose difficulty
is not defined stands behind all others, in either direction, and so does a group of such rows
only. Then a schedule loosens that order. A row that is in no group is a group of its own.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.signals import Floats, Ints


def permutation(difficulty: Floats, groups: Ints, config: OrderConfig, seed: int) -> Ints:
    """[rows]: row numbers in training order.

    difficulty: [rows], NaN where it is not defined. groups: [rows], each row's group, numbered
    from 0 in the order of their first rows. Rows of one group are neighbours, in the order of their
    difficulty.
    """
    if not len(difficulty):
        return np.empty(0, np.int64)
    standing = _standing(difficulty, config)
    group_order = np.argsort(_standing(_means(difficulty, groups), config), kind="stable")
    sizes = np.bincount(groups)[group_order]
    scheduled = SCHEDULES[config.schedule](sizes, config, np.random.default_rng(seed))
    place = np.empty(len(sizes), np.int64)
    place[group_order[scheduled]] = np.arange(len(sizes))
    return np.lexsort((standing, place[groups]))  # stable: ties keep their order in the file


def _standing(difficulty: Floats, config: OrderConfig) -> Floats:
    """What is sorted by, ascending: infinity where the difficulty is not defined."""
    return np.where(np.isnan(difficulty), np.inf, -difficulty if config.descending else difficulty)


def _means(difficulty: Floats, groups: Ints) -> Floats:
    """[groups]: mean over the rows whose difficulty is defined; NaN where there is none."""
    known = ~np.isnan(difficulty)
    total = int(groups.max()) + 1
    with np.errstate(invalid="ignore"):
        sums = np.bincount(groups[known], difficulty[known], minlength=total)
        return sums / np.bincount(groups[known], minlength=total)


# --- schedules -----------------------------------------------------------------------------------


Schedule = Callable[[Ints, OrderConfig, np.random.Generator], Ints]
"""(rows of each sorted group [groups], config, draw) -> positions in it [groups], as trained."""


def in_order(sizes: Ints, config: OrderConfig, draw: np.random.Generator) -> Ints:
    """Strictly by difficulty."""
    return np.arange(len(sizes))


def in_buckets(sizes: Ints, config: OrderConfig, draw: np.random.Generator) -> Ints:
    """Shuffled inside buckets of equally many rows (as nearly as groups allow)."""
    bucket = _starts(sizes) * config.buckets // sizes.sum()
    return np.lexsort((draw.random(len(sizes)), bucket))


def by_competence(sizes: Ints, config: OrderConfig, draw: np.random.Generator) -> Ints:
    """Drawn, without repetition, from a growing share of the corpus.

    When the share t of the rows is placed, the next one is drawn uniformly among those of the
    easiest c(t) that are not placed yet, c(t) = min(1, sqrt(t·(1 - c0²) + c0²)). Source: Platanios
    et al. 2019, arXiv 1903.09848 (square root competence, t and c0 as there). Departure: they draw
    each batch anew, so that a row may repeat before another was seen at all, and t runs over the
    whole training; ours is a permutation, and t runs over one epoch.
    """
    rows, placed, start = int(sizes.sum()), 0, config.competence_start**2
    starts, size_of = _starts(sizes).tolist(), sizes.tolist()
    drawn = draw.random(len(sizes)).tolist()
    # Positions [at, limit) hold those of the easiest `limit` that are not placed yet.
    positions = list(range(len(sizes)))
    for at, number in enumerate(drawn):
        competence = math.sqrt(placed / rows * (1 - start) + start)
        limit = max(at + 1, bisect.bisect_left(starts, competence * rows))
        chosen = at + int(number * (limit - at))
        positions[at], positions[chosen] = positions[chosen], positions[at]
        placed += size_of[positions[at]]
    return np.asarray(positions)


def _starts(sizes: Ints) -> Ints:
    """[groups]: rows before each group."""
    return np.cumsum(sizes) - sizes


SCHEDULES: dict[str, Schedule] = {
    "sorted": in_order,
    "buckets": in_buckets,
    "competence": by_competence,
}
