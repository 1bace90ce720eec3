"""Rows are joined only where one system turn is true of them all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.data.mixing import joined_groups


@pytest.mark.parametrize("seed", range(5))
def test_all_rows_of_a_system_turn_make_one_group_and_none_of_another_is_in_it(seed: int) -> None:
    systems = np.array([7, 9, 7, 9, 7], np.uint64)
    made = joined_groups(
        np.arange(5), np.full(5, 10), np.ones(5, bool), systems, 1.0, 1000, seed=seed
    )
    assert sorted(sorted(group) for group in made) == [[0, 2, 4], [1, 3]]


def test_a_joined_conversation_has_questions_of_its_own_system_turn_only(
    tmp_path: Path, jsonl: Callable[..., str], marked: Any
) -> None:
    systems = ("Be brief.", "Be kind.", "")
    rows = [
        {"system": systems[n % 3], "question": f"question {n}", "answer": f"answer {n}"}
        for n in range(12)
    ]
    config = DataConfig.model_validate(
        {"train": jsonl(rows), "join_probability": 1.0, "validation_fraction": 0}
    )
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=marked, seed=1)
    found = {}
    for row in corpus.train:
        first, *rest = row["messages"]
        system = first["content"] if first["role"] == "system" else ""
        said = [turn for turn in (first, *rest) if turn["role"] == "user"]
        assert "system" not in {turn["role"] for turn in rest}
        found[system] = sorted(int(turn["content"].split()[1]) for turn in said)
    assert len(corpus.train) == 3, json.dumps(corpus.train[:])
    assert found == {"Be brief.": [0, 3, 6, 9], "Be kind.": [1, 4, 7, 10], "": [2, 5, 8, 11]}
