"""The demo's preferences: the rule holds, all rows pass, a seed gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ytrainer_core.config import KtoConfig, narrow
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.demo.preferences import ROWS, is_polite, write_preferences
from ytrainer_core.demo.resources import locate
from ytrainer_core.preference.batches import mixed_batches
from ytrainer_core.preference.rows import preference_rows


def test_liked_answers_and_no_others_are_polite(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_preferences(tmp_path).read_text().splitlines()]
    assert len(rows) == ROWS
    for row in rows:
        assert is_polite(row["messages"][-1]["content"]) is row["label"]
    liked = sum(row["label"] for row in rows)
    assert 0.4 * ROWS < liked < 0.6 * ROWS


def test_a_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    first = write_preferences(tmp_path).read_bytes()
    assert write_preferences(tmp_path).read_bytes() == first
    assert write_preferences(tmp_path, seed=1).read_bytes() != first


def test_all_of_its_rows_pass_the_checks_and_no_two_answers_meet(
    tokenizer: Any, tmp_path: Path
) -> None:
    said = {"train": locate("demo:preferences"), "validation_fraction": 0}
    data = narrow(KtoConfig, {"data": said}).data
    corpus = prepare_corpus(data, tmp_path / "corpus", tokenizer=tokenizer, seed=42)
    assert corpus.manifest["counts"]["quarantined"] == 0
    rows = preference_rows(corpus.train, tokenizer, data, pairs=False).rows
    assert sorted(i for batch in mixed_batches(rows, 8, 0) for i in batch) == list(range(ROWS))
