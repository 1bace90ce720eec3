"""Rows are compared with each other by sorting their fingerprints: equal, contradicting, near.

All rules look at numbers alone; only for near duplicates a few texts are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ytrainer_core.data.fingerprints import (
    BY_PROMPT,
    NEVER,
    Fingerprint,
    Index,
    fingerprint,
    near_text,
)
from ytrainer_core.data.near import BANDS, NO_BAND, Near, Numbers, Words, find_near
from ytrainer_core.data.verdicts import (
    COMPARING_RULES,
    LEAKAGE_RULES,
    NEAR_RULES,
    NOBODY,
    OTHERS,
    Verdict,
    Verdicts,
    verdict_reason,
)

__all__ = [
    "BANDS",
    "COMPARING_RULES",
    "LEAKAGE_RULES",
    "NEAR_RULES",
    "Fingerprint",
    "Index",
    "Verdict",
    "Verdicts",
    "compare_rows",
    "fingerprint",
    "leakage",
    "near_text",
    "verdict_reason",
]

TextOf = Callable[[int], str]
"""Position -> near_text of the row there."""

Severity = Callable[[str], str]
"""Rule -> error (rows that break it are out), warning (they stay) or off."""

Mask = npt.NDArray[np.bool_]
Find = Callable[[Mask], Verdicts]
"""[rows] whether a row is out already -> the verdicts about the others."""


def _always_error(rule: str) -> str:
    return "error"


def compare_rows(
    index: Index,
    *,
    near_similarity: float | None,
    text_of: TextOf,
    severity: Severity = _always_error,
) -> Verdicts:
    """The verdicts of comparing the rows of one split with each other, one a row.

    exact_duplicate: every row that stands in full at an earlier position.
    contradicting_answers: all rows of a prompt that has more than one answer, for nobody can tell
    which is right; of rows with a label those that call the same answer good and bad, since several
    answers to one prompt are what such rows, and preferences, are for.
    near_duplicate: a row that is near an earlier one, itself not found; `near.find_near` says which
    may be missed. near_similarity: from which on, above 0 to 1; None looks for none.

    A row that breaks an error rule is out and not looked at by the rules after it; one that breaks
    a warning is, and has the verdict of an error before that of a warning.
    """
    rules: dict[str, Find] = {
        "exact_duplicate": lambda out: _exact_duplicates(index),
        "contradicting_answers": lambda out: _contradicting_answers(index, out),
    }
    if near_similarity is not None:
        least = near_similarity
        rules["near_duplicate"] = lambda out: _near_duplicates(index, out, least, text_of)
    return _judged(index, rules, severity)


def leakage(
    train: Index,
    validation: Index,
    *,
    near_similarity: float | None,
    text_of: TextOf,
    validation_text_of: TextOf,
    severity: Severity = _always_error,
) -> Verdicts:
    """Training rows that stand in validation, in full or by their prompt, or nearly.

    The others of these verdicts are positions in validation, whose texts validation_text_of gives.
    The other arguments are those of compare_rows.
    """
    rules: dict[str, Find] = {"leakage": lambda out: _leaks(train, validation)}
    if near_similarity is not None and len(validation):
        least = near_similarity
        rules["near_leakage"] = lambda out: _near_leaks(
            train, out, validation, least, text_of, validation_text_of
        )
    return _judged(train, rules, severity)


def _judged(index: Index, rules: Mapping[str, Find], severity: Severity) -> Verdicts:
    found: dict[str, list[Verdicts]] = {"error": [], "warning": []}
    out = np.zeros(len(index), bool)
    for rule, find in rules.items():
        if severity(rule) == "off":
            continue
        verdicts = find(out)
        found[severity(rule)].append(verdicts)
        if severity(rule) == "error":
            out |= np.isin(index.positions, verdicts.positions)
    return Verdicts.concatenate([*found["error"], *found["warning"]])


# --- within a split ------------------------------------------------------------------------------


def _exact_duplicates(index: Index) -> Verdicts:
    first = _first_equal(index.wholes)
    rows = np.flatnonzero(first != np.arange(len(index)))
    return Verdicts.of("exact_duplicate", index.positions[rows], index.positions[first[rows]])


def _contradicting_answers(index: Index, out: Mask) -> Verdicts:
    first = _first_equal(index.wholes)
    contradicts = index.contradicts()
    # A copy is no answer of its own, but contradicts whatever the row it copies does.
    originals = np.flatnonzero((first == np.arange(len(index))) & (contradicts != NEVER))
    by_prompt = contradicts[originals] == BY_PROMPT
    keys = np.where(by_prompt[:, None], index.prompts[originals], index.answers()[originals])
    groups = _first_equal(keys)
    order = np.argsort(groups, kind="stable")
    ranked = originals[order]
    begins = np.flatnonzero(np.diff(groups[order], prepend=NOBODY))
    sizes = np.diff(begins, append=len(order))
    several = sizes > 1
    numbers = np.where(several, np.cumsum(several) - 1, NOBODY)
    clash = np.full(len(index), NOBODY, np.int64)  # [rows], number of the group
    clash[ranked] = np.repeat(numbers, sizes)
    clash = clash[first]
    begins, sizes = begins[several], sizes[several]

    # One more than a verdict names: the row itself may be among the first.
    named = np.full((len(sizes), OTHERS + 1), NOBODY, np.int64)
    for i in range(OTHERS + 1):
        enough = sizes > i
        named[enough, i] = ranked[begins[enough] + i]
    rows = np.flatnonzero((clash != NOBODY) & ~out)
    others = named[clash[rows]]
    others[others == first[rows][:, None]] = NOBODY
    nobody_last = np.argsort(others == NOBODY, axis=1, kind="stable")
    others = np.take_along_axis(others, nobody_last, axis=1)[:, :OTHERS]
    return Verdicts.of(
        "contradicting_answers",
        index.positions[rows],
        np.where(others == NOBODY, NOBODY, index.positions[others]),
        more=sizes[clash[rows]] - 1 - np.count_nonzero(others != NOBODY, axis=1),
    )


def _near_duplicates(index: Index, out: Mask, least: float, text_of: TextOf) -> Verdicts:
    near = find_near(
        (_band(index, out, band) for band in range(BANDS)),
        len(index),
        lambda row: text_of(int(index.positions[row])),
        least,
    )
    return _near_verdicts("near_duplicate", near, index, index)


# --- between training and validation -------------------------------------------------------------


def _leaks(train: Index, validation: Index) -> Verdicts:
    same = _first_among(train.wholes, validation.wholes)
    asked = _first_among(train.prompts, validation.prompts)
    asked[~train.prompts.any(axis=1)] = NOBODY
    found = np.where(same == NOBODY, asked, same)
    rows = np.flatnonzero(found != NOBODY)
    return Verdicts.of("leakage", train.positions[rows], validation.positions[found[rows]])


def _near_leaks(
    train: Index,
    out: Mask,
    validation: Index,
    least: float,
    text_of: TextOf,
    validation_text_of: TextOf,
) -> Verdicts:
    held_out = len(validation)

    def text(row: int) -> str:
        if row < held_out:
            return validation_text_of(int(validation.positions[row]))
        return text_of(int(train.positions[row - held_out]))

    near = find_near(
        (
            np.concatenate((validation.bands[:, band], _band(train, out, band)))
            for band in range(BANDS)
        ),
        held_out + len(train),
        text,
        least,
        fixed=held_out,
    )
    near = Near(near.rows - held_out, near.others, near.similarities)
    return _near_verdicts("near_leakage", near, train, validation)


def _band(index: Index, out: Mask, band: int) -> Words:
    """[rows]: one band, none of the rows that are out."""
    return np.where(out, np.uint64(NO_BAND), index.bands[:, band])


def _near_verdicts(rule: str, near: Near, rows: Index, others: Index) -> Verdicts:
    return Verdicts.of(
        rule,
        rows.positions[near.rows],
        others.positions[near.others],
        similarities=near.similarities,
    )


# --- equal keys ----------------------------------------------------------------------------------


def _first_equal(keys: Words) -> Numbers:
    """[rows]: the first row with the same key, itself where it is that one. keys: [rows, 2]."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ranked = keys[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _first_among(keys: Words, others: Words) -> Numbers:
    """[rows]: the first of the others with the same key, NOBODY where there is none."""
    first = _first_equal(np.concatenate((others, keys)))[len(others) :]
    return np.where(first < len(others), first, NOBODY)
