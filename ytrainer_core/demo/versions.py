"""Three versions of the demo's corpus, for the story of retraining: first, better, poisoned."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from ytrainer_core.demo.corpus import Row, clean_train_rows, other_answer, write_rows

FIRST_ROWS = 360
"""Rows of v1.json, the beginning of v2.json."""

POISONED = 0.4
"""Share of the rows of v3.json with a wrong answer."""


def write_versions(folder: Path, seed: int = 0) -> None:
    """Write v1.json (a few rows), v2.json (all of them) and v3.json (v2 with many wrong answers).

    The rows are the clean ones of train.json. The same seed gives the same bytes.
    """
    rng = random.Random(seed)
    rows = clean_train_rows()
    write_rows(folder / "v1.json", rows[:FIRST_ROWS])
    write_rows(folder / "v2.json", rows)
    poisoned = set(rng.sample(range(len(rows)), round(POISONED * len(rows))))
    write_rows(
        folder / "v3.json",
        [_wrong(row, rng) if number in poisoned else row for number, row in enumerate(rows)],
    )


def _wrong(row: Row, rng: random.Random) -> Row:
    return replace(row, output=other_answer(row, rng))
