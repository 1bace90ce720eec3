"""Mixing a corpus with rows of another one, so that a model does not forget them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

R = TypeVar("R")


def with_replay(rows: Sequence[R], replay: Sequence[R], ratio: float, seed: int) -> list[R]:
    """Rows with `ratio` replayed ones each, spread evenly; the order of `rows` is kept.

    The replayed rows are drawn without repetition; where there are fewer than asked
    for, all are taken.
    """
    count = min(len(replay), round(ratio * len(rows)))
    drawn = random.Random(seed).sample(range(len(replay)), count)
    mixed: list[R] = []
    for number, row in enumerate(rows):
        mixed.append(row)
        due = (number + 1) * count // len(rows)
        mixed += (replay[i] for i in drawn[number * count // len(rows) : due])
    return mixed
