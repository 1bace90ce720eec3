"""Whether answers repeat themselves, which a model does that was tuned too long or too narrowly."""

from __future__ import annotations

from collections.abc import Sequence

from ytrainer_core.evaluation.intervals import RowValues, row_means
from ytrainer_core.evaluation.words import pieces

REPEATED_WORDS = 4
"""Length of the n-grams whose repetition is counted."""


def degeneration(answers: Sequence[str]) -> dict[str, RowValues]:
    """How much each answer repeats of itself, by metric; words are those of `words.pieces`.

    repetition: share of an answer's 4-grams that it has said before. distinct_1, distinct_2: share
    of its words and pairs of words that are different ones. An answer too short for a single
    n-gram repeats nothing: 0 and 1.
    Source: seq-rep-n of Welleck et al., arXiv 1908.04319, eq. 10; distinct-n of Li et al., arXiv
    1510.03055, which counts over all answers together, here within each.
    """
    split = [pieces(answer) for answer in answers]
    return {
        "repetition": row_means([1 - _distinct(words, REPEATED_WORDS) for words in split]),
        "distinct_1": row_means([_distinct(words, 1) for words in split]),
        "distinct_2": row_means([_distinct(words, 2) for words in split]),
    }


def _distinct(words: Sequence[str], length: int) -> float:
    """Share of the n-grams that are different ones; 1 where there is none."""
    grams = [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
