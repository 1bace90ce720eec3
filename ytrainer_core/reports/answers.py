"""An answer as a report shows it: coloured pieces, cropped around what matters.

A piece is one token, or the tokens that share one character.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_TOKENS = 1_500
"""Pieces of one answer that a report holds; the rest is counted."""

_WHOLE = 200
"""Answers of up to that many pieces, some twelve lines, are shown without a fold."""

_BEFORE, _AFTER = 24, 40
"""Pieces shown on either side of what matters: few enough that it is on the first screen."""

_LEAST_FOLDED = 20
"""Fewer pieces than this are not worth a fold."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece with its CSS classes and the numbers that pointing at it shows.

    before: untrained text between the piece before it and this one.
    alternatives: (text, probability) that stand behind it.
    """

    text: str
    classes: str
    tip: str
    before: str = ""
    alternatives: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring cells, folded away or not; `lost` more belong to it that are not shown."""

    cells: Sequence[Cell]
    folded: bool = False
    lost: int = 0

    @property
    def size(self) -> int:
        """Pieces of the stretch, shown or not."""
        return len(self.cells) + self.lost


def pieces(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Tokens that are shown as one, as [start, end): "" belongs to the text before it."""
    starts = [at for at, text in enumerate(texts) if text or not at]
    return list(itertools.pairwise([*starts, len(texts)]))


def crop(cells: Sequence[Cell], centres: Iterable[int]) -> list[Stretch]:
    """Cut a long answer: what surrounds the cells `centres` is open, the rest folded."""
    if len(cells) <= _WHOLE:
        return [Stretch(cells)] if cells else []
    is_open = [False] * len(cells)
    for centre in list(centres) or [0]:
        low, high = max(0, centre - _BEFORE), min(len(cells), centre + _AFTER + 1)
        is_open[low:high] = [True] * (high - low)
    parts: list[tuple[bool, list[Cell]]] = []
    at = 0
    for opened, run in itertools.groupby(is_open):
        length = len(list(run))
        part = list(cells[at : at + length])
        at += length
        if opened or length < _LEAST_FOLDED:
            if parts and not parts[-1][0]:
                parts[-1][1].extend(part)
            else:
                parts.append((False, part))
        else:
            parts.append((True, part))
    return _within_limit(parts)


def _within_limit(parts: Sequence[tuple[bool, list[Cell]]]) -> list[Stretch]:
    budget = MOST_TOKENS - sum(len(part) for folded, part in parts if not folded)
    cut = []
    for folded, part in parts:
        kept = part[: max(0, budget)] if folded else part
        budget -= len(kept) if folded else 0
        cut.append(Stretch(kept, folded, len(part) - len(kept)))
    return cut


def level(letter: str, value: float, steps: Sequence[float]) -> str:
    """CSS class of a value: its letter with the number of steps it reaches; "" below all."""
    if math.isnan(value):
        return f"{letter}x"
    reached = bisect.bisect_right(steps, value)
    return f"{letter}{reached}" if reached else ""


def legend(steps: Sequence[float]) -> list[str]:
    """What each level means, level 0 first."""
    middle = [f"{low:g}–{high:g}" for low, high in itertools.pairwise(steps)]
    return [f"< {steps[0]:g}", *middle, f"≥ {steps[-1]:g}"]


def finite_mean(values: Iterable[float]) -> float:
    """Mean of the finite values; NaN where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
