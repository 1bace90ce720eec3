"""Batches in which both kinds of answers are mixed and no two answers are equal.

KTO estimates its reference point from prompts with the answers of other rows of the batch, so a
batch of one row, or one in which a row meets its own answer again, would make that point the
reward itself. Rows are dealt like cards, so that batches differ in size by one row at most.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from ytrainer_core.errors import DataError
from ytrainer_core.preference.rows import PreferenceRow

LEAST_ROWS = 2
"""Rows of a batch at least."""


def number_of_batches(rows: int, batch_size: int) -> int:
    """Batches of at most `batch_size` rows, or of one more where one would be left alone."""
    batches = -(-rows // batch_size)
    return batches if rows // batches >= LEAST_ROWS else rows // LEAST_ROWS


def mixed_batches(
    rows: Sequence[PreferenceRow], batch_size: int, seed: int, *, distinct: bool = True
) -> list[list[int]]:
    """Row numbers by batch; every row is in exactly one, and every batch has 2 rows or more.

    All rows with one answer are dealt one after the other, so that they come to different batches
    wherever there are enough; the others by label, so that their labels are spread evenly.
    distinct: refuse what would put equal answers into one batch.
    Raises DataError where that cannot be avoided, ValueError for fewer than two rows.
    """
    if len(rows) < LEAST_ROWS:
        raise ValueError(f"{len(rows)} rows make no batch of {LEAST_ROWS}")
    batches = number_of_batches(len(rows), batch_size)
    answers = [tuple(row.completion_ids) for row in rows]
    count = Counter(answers)
    if distinct:
        _require_distinct(rows, count, batches)
    shuffled = list(range(len(rows)))
    rng = random.Random(seed)
    rng.shuffle(shuffled)
    place = {answer: number for number, answer in enumerate(answers[i] for i in shuffled)}
    shuffled.sort(
        key=lambda i: (count[answers[i]] == 1, place[answers[i]] * (count[answers[i]] > 1),
                       rows[i].label)
    )  # fmt: skip
    dealt = [shuffled[start::batches] for start in range(batches)]
    for batch in dealt:
        rng.shuffle(batch)
    rng.shuffle(dealt)
    return dealt


def pair_batches(rows: Sequence[PreferenceRow], batch_size: int, seed: int) -> list[list[int]]:
    """Row numbers by batch of pairs: rows 2i and 2i + 1 are one, and stay next to each other."""
    pairs = list(range(len(rows) // 2))
    random.Random(seed).shuffle(pairs)
    chunks = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    return [[row for pair in chunk for row in (2 * pair, 2 * pair + 1)] for chunk in chunks]


def mismatched(batch: Sequence[int]) -> list[int]:
    """For each row of a batch the row whose answer it is compared with: the one before it."""
    return [*batch[-1:], *batch[:-1]]


def _require_distinct(
    rows: Sequence[PreferenceRow], count: Counter[tuple[int, ...]], batches: int
) -> None:
    answer, times = count.most_common(1)[0]
    if times <= batches:
        return
    origins = [row.origin for row in rows if tuple(row.completion_ids) == answer]
    largest = len(rows)
    while largest >= LEAST_ROWS and number_of_batches(len(rows), largest) < times:
        largest -= 1
    remedy = (
        f"Set preference.batch_size={largest}"
        if largest >= LEAST_ROWS
        else "Leave most of them out"
    )
    raise DataError(
        f"{times} of {len(rows)} rows have the same answer (first {origins[0]}, {origins[1]}), "
        f"which {batches} batches cannot keep apart; a row compared with its own answer teaches "
        f"nothing. {remedy}, or take preference.loss=apo_zero_unpaired, which does not compare."
    )
