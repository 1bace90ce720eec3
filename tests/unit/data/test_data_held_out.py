"""A row's own hash decides on which side it is, not its place among the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.data.mixing import held_out

ROWS = np.random.default_rng(0).integers(0, 2**63, (200, 2)).astype(np.uint64)
"""Digests of 200 rows."""


def sides(digests: Any) -> Any:
    return held_out(digests, np.zeros(len(digests), np.int32), 0.2, 1000, seed=1)


def test_rows_that_are_put_before_others_leave_those_on_their_side() -> None:
    own = sides(ROWS[100:])
    assert 5 < own.sum() < 40
    assert (sides(ROWS)[100:] == own).all()


def test_rows_in_another_order_keep_their_sides() -> None:
    order = np.random.default_rng(1).permutation(len(ROWS))
    assert (sides(ROWS[order]) == sides(ROWS)[order]).all()


def test_several_answers_to_one_prompt_are_trained_or_held_out_together(
    tmp_path: Path, jsonl: Callable[..., str]
) -> None:
    rows = [
        {"prompt": f"question {n}", "completion": f"answer {n} {label}", "label": label}
        for n in range(40)
        for label in (True, False)
    ]
    config = DataConfig.model_validate(
        {"train": jsonl(rows), "purpose": "kto", "validation_fraction": 0.3}
    )
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=1)
    trained, held = (
        [row["messages"][0]["content"] for row in split]
        for split in (corpus.train, corpus.validation)
    )
    assert len(trained) + len(held) == 80
    assert 10 < len(held) < 40
    assert not set(trained) & set(held)
