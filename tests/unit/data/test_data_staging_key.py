"""Shards are found again where they would be written the same, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data import staging
from ytrainer_core.data.reader import Source, raw_rows
from ytrainer_core.data.shards import Checker, read_shard
from ytrainer_core.data.staging import staging_key

FILES = (("train", "a.jsonl", "1" * 64), ("train", "b.jsonl", "2" * 64))

SHARDS_ANEW: dict[str, Any] = {
    "train": "b.jsonl",
    "validation": "v.jsonl",
    "general": "g.txt",
    "replay": "r.jsonl",
    "earlier": "e.jsonl",
    "purpose": "auto",
    "format": "alpaca",
    "columns": "prompt=Frage",
    "where": "reviewed=yes",
    "encoding": "latin-1",
    "max_rows": 3,
    "max_length": 64,
    "on_too_long": "truncate",
    "rules": "email=error",
    "languages": "en",
    "train_on": "last_turn",
    "system_prompt": "Be brief.",
}
SAME_SHARDS: dict[str, Any] = {
    "replay_ratio": 1.0,
    "earlier_ratio": 0.5,
    "validation_fraction": 0.3,
    "validation_rows": 7,
    "min_rows": 3,
    "sample_by": "characters",
    "join_probability": 0.5,
    "on_invalid": "fail",
    "max_dropped": 0.5,
    "near_duplicate_similarity": 0.5,
    "workers": 2,
}
"""Every knob of the corpus with another value than its default."""


def key(tokenizer: Any = None, files: Any = FILES, **knobs: Any) -> str:
    return staging_key(DataConfig.model_validate({"train": "a.jsonl", **knobs}), tokenizer, files)


def test_every_knob_is_in_one_of_the_two_tables() -> None:
    assert not SHARDS_ANEW.keys() & SAME_SHARDS.keys()
    assert SHARDS_ANEW.keys() | SAME_SHARDS.keys() == DataConfig.model_fields.keys()


@pytest.mark.parametrize(("knob", "value"), SHARDS_ANEW.items())
def test_a_knob_that_changes_what_is_read_or_checked_makes_shards_anew(
    knob: str, value: Any
) -> None:
    assert key(**{knob: value}) != key()


@pytest.mark.parametrize(("knob", "value"), SAME_SHARDS.items())
def test_a_knob_that_comes_after_the_shards_finds_them_again(
    tmp_path: Path, marked: Any, knob: str, value: Any
) -> None:
    assert key(**{knob: value}) == key()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"question": "q", "answer": "the answer of the user"}\n'
        '{"question": "q", "answer": "the answer is at jo@shop.de"}\n'
        '{"question": "q", "answer": ""}\n'
        "{broken\n"
    )

    def shard(name: str, **knobs: Any) -> Any:
        config = DataConfig.model_validate({"train": str(rows), **knobs})
        raws = list(raw_rows(Source(str(rows), rows), config))
        Checker(config, marked, measured=False).write("rows", raws, tmp_path / name)
        return read_shard(tmp_path / name).to_pydict()

    assert shard("one") == shard("other", **{knob: value})


@pytest.mark.parametrize(
    "files",
    [
        (("train", "a.jsonl", "1" * 64), ("train", "c.jsonl", "2" * 64)),  # origins name the file
        (("train", "a.jsonl", "1" * 64), ("train", "b.jsonl", "3" * 64)),
        (("train", "a.jsonl", "1" * 64), ("validation", "b.jsonl", "2" * 64)),
        (FILES[1], FILES[0]),
        FILES[:1],
    ],
)
def test_other_names_bytes_splits_order_or_number_of_files_make_shards_anew(files: Any) -> None:
    assert key(files=files) != key()


def test_another_tokenizer_or_template_makes_shards_anew(marked: Any, unmarked: Any) -> None:
    assert len({key(), key(marked), key(unmarked)}) == 3
    assert key(marked) == key(marked)


@pytest.mark.parametrize(("name", "value"), [("__version__", "0.0.0"), ("_VERSION", -1)])
def test_another_version_makes_shards_anew(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    before = key()
    monkeypatch.setattr(staging, name, value)
    assert key() != before
