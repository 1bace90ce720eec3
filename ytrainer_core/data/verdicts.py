"""What comparing rows finds, as arrays: position -> rule and the other rows, and that in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ytrainer_core.data.near import Numbers

LEAKAGE_RULES = ("leakage", "near_leakage")
"""Rules whose verdicts name rows of validation."""

NEAR_RULES = ("near_duplicate", "near_leakage")
"""Rules that need a fingerprint's bands."""

COMPARING_RULES = ("exact_duplicate", "contradicting_answers", "near_duplicate", *LEAKAGE_RULES)
"""All rules that compare rows."""

OTHERS = 3
"""Rows that a verdict names; the rest are counted."""

NOBODY = -1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why comparing finds fault with a row.

    others: positions of the first rows it clashes with; more: how many further ones there are.
    similarity: of the texts, 0 to 1; 1 where rows or prompts are equal.
    """

    rule: str
    others: tuple[int, ...]
    more: int = 0
    similarity: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts(Mapping[int, Verdict]):
    """Position -> Verdict.

    positions: [found], ascending. rules: [found], numbers in COMPARING_RULES. others: [found,
    OTHERS] positions, NOBODY for none. more, similarities: [found].
    """

    positions: Numbers
    rules: npt.NDArray[np.uint8]
    others: Numbers
    more: Numbers
    similarities: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        rule: str,
        positions: Numbers,
        others: Numbers,
        more: Numbers | None = None,
        similarities: npt.NDArray[np.float64] | None = None,
    ) -> Self:
        """Verdicts of one rule. positions: ascending. others: [found] or [found, OTHERS]."""
        found = len(positions)
        if others.ndim == 1:
            named = np.full((found, OTHERS), NOBODY, np.int64)
            named[:, 0] = others
            others = named
        return cls(
            positions,
            np.full(found, COMPARING_RULES.index(rule), np.uint8),
            others,
            np.zeros(found, np.int64) if more is None else more,
            np.ones(found) if similarities is None else similarities,
        )

    @classmethod
    def none(cls) -> Self:
        """No verdict at all."""
        nobody = np.empty(0, np.int64)
        return cls.of(COMPARING_RULES[0], nobody, nobody)

    @classmethod
    def concatenate(cls, parts: Sequence[Verdicts]) -> Self:
        """All verdicts of the parts; of several about one row the first part's."""
        columns = [
            np.concatenate([getattr(part, name) for part in (*parts, cls.none())])
            for name in _COLUMNS
        ]
        _, first = np.unique(columns[0], return_index=True)
        return cls(*(column[first] for column in columns))

    def only(self, rules: Collection[str]) -> Verdicts:
        """The verdicts of these rules."""
        kept = np.isin(self.rules, [COMPARING_RULES.index(rule) for rule in rules])
        return Verdicts(*(getattr(self, column)[kept] for column in _COLUMNS))

    def counts(self) -> Counter[str]:
        """Rows by rule."""
        numbers = np.bincount(self.rules, minlength=len(COMPARING_RULES)).tolist()
        return +Counter(dict(zip(COMPARING_RULES, numbers, strict=True)))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions.tolist())

    def __getitem__(self, position: int) -> Verdict:
        at = int(np.searchsorted(self.positions, position))
        if at == len(self) or self.positions[at] != position:
            raise KeyError(position)
        return Verdict(
            COMPARING_RULES[self.rules[at]],
            tuple(other for other in self.others[at].tolist() if other != NOBODY),
            int(self.more[at]),
            float(self.similarities[at]),
        )


_COLUMNS = ("positions", "rules", "others", "more", "similarities")

_REASONS: Mapping[str, str] = {
    "exact_duplicate": "is the same as {others}. Keep one of them.",
    "contradicting_answers": (
        "has the same prompt as {others}, but another answer or label, and nobody can tell which "
        "is right. Keep the right one."
    ),
    "near_duplicate": (
        "shares {similarity:.1%} of its word sequences with {others}. Keep one of them, or set "
        "data.near_duplicate_similarity higher."
    ),
    "leakage": (
        "has the prompt of the validation row {others}, so validation would measure memory. "
        "Take it out of one of the two."
    ),
    "near_leakage": (
        "shares {similarity:.1%} of its word sequences with the validation row {others}, so "
        "validation would measure memory. Take it out of one of the two, or set "
        "data.near_duplicate_similarity higher."
    ),
}


def verdict_reason(verdict: Verdict, origin_of: Callable[[int], str]) -> str:
    """The reason of a verdict in words, naming the first of the other rows.

    origin_of: position -> origin; of a row in validation for LEAKAGE_RULES.
    """
    named = ", ".join(map(origin_of, verdict.others))
    if verdict.more:
        named += f" and {verdict.more} more"
    return _REASONS[verdict.rule].format(others=named, similarity=verdict.similarity)
