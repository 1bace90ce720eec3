"""Which rows are trained, how often, and beside which: split, sampling, replay, joined rows.

Everything is drawn by a seed, and what a row's hash decides stays decided when rows are added.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ytrainer_core.data.formats import Row, Turn
from ytrainer_core.files import sha256_json

if TYPE_CHECKING:
    import datasets

Positions = npt.NDArray[np.int64]

_HASHES = float(2**64)


# --- held out ------------------------------------------------------------------------------------


def held_out(
    digests: npt.NDArray[np.uint64],
    sources: npt.NDArray[np.int32],
    share: float,
    most: int,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which rows are held out: about `share` of every source, at most `most` in all.

    digests: [rows, 2], equal for rows that must stay together (those of one prompt). The seed and
    a row's digest give it a place between 0 and 1; it is held out below `share`, whatever rows
    stand around it; of a source large enough for one, one is. Where that would be more than
    `most`, rows with the highest places go back to training; so rows that are added may move one
    from validation to training, never the other way. One is held out at least, and one trained.
    """
    if not share or len(digests) < 2:
        return np.zeros(len(digests), bool)
    places = _places(digests, seed)
    out = places < share
    for source in np.unique(sources):
        own = np.flatnonzero(sources == source)
        if not out[own].any() and share * len(own) >= 1:
            out[own[np.argmin(places[own])]] = True
    if out.sum() > most:
        out = places <= np.partition(places[out], most - 1)[most - 1]
    if not out.any():
        out = places == places.min()
    if out.all():
        out = places < places.max()
    return out


def _places(digests: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """[rows] in [0, 1): a mixing function (splitmix64's) over digest and seed."""
    mixed = digests[:, 0] ^ np.uint64(int(sha256_json(["held out", seed])[:16], 16))
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed / _HASHES


# --- sampling ------------------------------------------------------------------------------------


def sampled(
    positions: Positions, rate: float, seed: int, *, sizes: npt.NDArray[np.int64] | None = None
) -> Positions:
    """The rows that a sampling rate takes: whole copies of all, then a sample without repetition.

    sizes: characters of each row, where the rate counts characters; None counts rows. Every copy
    is in the order of the rows. A rate above 0 takes at least one row.
    """
    copies, part = divmod(rate, 1.0)
    taken = [positions] * int(copies)
    weights = np.ones(len(positions), np.int64) if sizes is None else sizes
    wanted = part * weights.sum()
    order = np.random.default_rng(seed).permutation(len(positions))
    total = np.cumsum(weights[order])
    count = int(np.searchsorted(total, wanted + 1e-9, side="right"))
    if not copies:
        count = max(1, count)
    taken.append(positions[np.sort(order[:count])])
    return np.concatenate(taken)


# --- joined rows (pseudo multi-turn) -------------------------------------------------------------


def joined_groups(
    positions: Positions,
    lengths: npt.NDArray[np.int64],
    joinable: npt.NDArray[np.bool_],
    systems: npt.NDArray[np.uint64],
    probability: float,
    most: int,
    seed: int,
) -> list[list[int]]:
    """Positions by the conversation that they will be; most stay alone.

    lengths, joinable, systems: of each of `positions`; tokens, whether it may be joined, and a
    number equal for equal system turns. In an order drawn by the seed each joinable row is, with
    `probability`, put behind the one before it, while both have one system turn and the group
    holds at most `most` tokens. A group stands where its first row stood.
    """
    draw = random.Random(seed)
    candidates = np.flatnonzero(joinable).tolist()
    draw.shuffle(candidates)
    candidates.sort(key=lambda at: int(systems[at]))
    groups: list[list[int]] = []
    total = 0
    for at in candidates:
        fits = total + int(lengths[at]) <= most
        fits = fits and bool(groups) and systems[groups[-1][-1]] == systems[at]
        if fits and draw.random() < probability:
            groups[-1].append(at)
            total += int(lengths[at])
        else:
            groups.append([at])
            total = int(lengths[at])
    groups += [[at] for at in np.flatnonzero(~joinable).tolist()]
    return [[int(positions[at]) for at in group] for group in sorted(groups)]


def joined(rows: Sequence[Row]) -> Row:
    """Conversations one behind the other; the first one's system turn stands for all."""
    turns: list[Turn] = list(rows[0].turns)
    for row in rows[1:]:
        turns += [turn for turn in row.turns if turn.role != "system"]
    return Row(" + ".join(row.origin for row in rows), tuple(turns))


# --- replay --------------------------------------------------------------------------------------


def with_replay(
    rows: datasets.Dataset, pools: Sequence[tuple[datasets.Dataset, float]], seed: int
) -> datasets.Dataset:
    """Rows with those of (pool, ratio) spread between them; none is copied.

    A pool gives `ratio` rows for each of `rows`, drawn without repetition; where it has fewer,
    all of them. Empty pools give none.
    """
    import datasets as hf

    filled = [(pool, ratio) for pool, ratio in pools if len(pool) and ratio]
    if not filled:
        return rows
    order = replay_order(len(rows), [(len(pool), ratio) for pool, ratio in filled], seed)
    return hf.concatenate_datasets([rows, *(pool for pool, _ in filled)]).select(order)


def replay_order(rows: int, pools: Sequence[tuple[int, float]], seed: int) -> list[int]:
    """Row numbers with those of (rows of the pool, ratio) spread evenly; the rows keep their order.

    The rows of the pools are numbered behind `rows`, one pool after the other.
    """
    draw = random.Random(seed)
    begin, drawn = rows, []
    for size, ratio in pools:
        drawn.append([begin + i for i in draw.sample(range(size), min(size, round(ratio * rows)))])
        begin += size
    mixed: list[int] = []
    for number in range(rows):
        mixed.append(number)
        for pool in drawn:
            mixed += pool[number * len(pool) // rows : (number + 1) * len(pool) // rows]
    return mixed
