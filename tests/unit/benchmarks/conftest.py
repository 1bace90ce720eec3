"""A GSM8K of a few rows, and a Qwen3 shape that trains in a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import SHAPE

from benchmarks import corpus


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """Folder with gsm8k_train.jsonl (6 rows) and gsm8k_test.jsonl (2 rows)."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 6), ("test", 2)):
        rows = [
            {"question": f"Ann has {i} eggs and eats one.", "answer": f"{i} - 1 is left.\n#### {i}"}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"gsm8k_{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def prepared(gsm8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What all cases read, made of that corpus; the shape 'tiny' is known."""
    shape = SHAPE | {"initializer_range": 0.02}  # a first loss near ln V
    del shape["vocab_size"]
    monkeypatch.setitem(corpus.SHAPES, "tiny", shape)
    folder = tmp_path / "prepared"
    folder.mkdir()
    corpus.prepare(folder, gsm8k, rows=6, held_out=2, longest=512)
    return folder
