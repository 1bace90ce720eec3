"""A comparing rule that is off finds nothing and leaves its rows to the rules after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus

Write = Callable[..., str]

LONG = " ".join(f"word{n}" for n in range(100))


def rules_broken(tmp_path: Path, train: str, rules: str, **knobs: Any) -> dict[str, int]:
    config = DataConfig.model_validate(
        {"train": train, "rules": rules, "max_dropped": 1, "validation_fraction": 0, **knobs}
    )
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=0)
    return dict(corpus.manifest["counts"]["rules"])


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ("", {"exact_duplicate": 1, "contradicting_answers": 2}),
        ("contradicting_answers=off", {"exact_duplicate": 1}),
        ("exact_duplicate=off", {"contradicting_answers": 3}),  # the copy has an answer too
        ("exact_duplicate=warning", {"contradicting_answers": 3}),
        ("exact_duplicate=off,contradicting_answers=off", {}),
    ],
)
def test_copies_and_contradictions(
    tmp_path: Path, jsonl: Write, rules: str, broken: dict[str, int]
) -> None:
    said = (("q", "x"), ("q", "x"), ("q", "y"), ("other", "z"))
    train = jsonl([{"question": question, "answer": answer} for question, answer in said])
    assert rules_broken(tmp_path, train, rules) == broken


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ("", {"near_duplicate": 1}),
        ("near_duplicate=error", {"near_duplicate": 1}),
        ("near_duplicate=off", {}),
    ],
)
def test_near_duplicates(tmp_path: Path, jsonl: Write, rules: str, broken: dict[str, int]) -> None:
    train = jsonl([{"text": f"{LONG} one"}, {"text": f"{LONG} two"}])
    assert rules_broken(tmp_path, train, rules) == broken


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ("", {"leakage": 1}),
        ("leakage=off", {"near_leakage": 1}),  # the same text is a near one too
        ("leakage=off,near_leakage=off", {}),
    ],
)
def test_leaks(tmp_path: Path, jsonl: Write, rules: str, broken: dict[str, int]) -> None:
    train = jsonl([{"text": LONG}, {"text": "another"}])
    validation = jsonl([{"text": LONG}], "v.jsonl")
    assert rules_broken(tmp_path, train, rules, validation=validation) == broken
