"""Mixing a corpus with rows of another one, so that a model does not forget them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def with_replay(
    rows: datasets.Dataset, replay: datasets.Dataset, ratio: float, seed: int
) -> datasets.Dataset:
    """Rows with `ratio` replayed ones each, in the order of `replay_order`; none is copied."""
    import datasets as hf

    order = replay_order(len(rows), len(replay), ratio, seed)
    return hf.concatenate_datasets([rows, replay]).select(order)


def replay_order(rows: int, replay: int, ratio: float, seed: int) -> list[int]:
    """Row numbers with `ratio` replayed ones each, spread evenly; the rows keep their order.

    A replayed row i has the number rows + i. They are drawn without repetition; where there
    are fewer than asked for, all are taken.
    """
    count = min(replay, round(ratio * rows))
    drawn = random.Random(seed).sample(range(replay), count)
    mixed: list[int] = []
    for number in range(rows):
        mixed.append(number)
        due = (number + 1) * count // rows
        mixed += (rows + i for i in drawn[number * count // rows : due])
    return mixed
