"""The score table: a Parquet row for each row of the corpus, written some at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ytrainer_core.curriculum.signals import read_origins, read_signals
from ytrainer_core.scoring import table
from ytrainer_core.scoring.table import ScoredLine, write_scores


def line(origin: str, *nll: float, **scores: float) -> ScoredLine:
    values = np.asarray(nll, np.float32)
    return ScoredLine(origin, 2.0, False, 1.0, 0.5, values, values / 2, scores)


def test_rows_come_back_in_order_with_every_method_s_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_BATCH_ROWS", 2)
    path = tmp_path / "deep" / "scores.parquet"
    lines = [line("a:1", 1.0, 2.5, ifd=0.7), line("a:3", surprise=3.0), line("b:2", 0.25)]

    write_scores(path, iter(lines), ["ifd", "surprise"])

    found = pq.read_table(path).to_pydict()
    assert found["origin"] == ["a:1", "a:3", "b:2"]
    assert found["score"] == [2.0, 2.0, 2.0]
    assert found["score_ifd"] == [0.7, None, None]
    assert found["score_surprise"] == [None, 3.0, None]
    assert found["nll"] == [[1.0, 2.5], [], [0.25]]
    assert found["entropy"] == [[0.5, 1.25], [], [0.125]]
    assert [file.name for file in path.parent.iterdir()] == ["scores.parquet"]


def test_the_order_stage_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, [line("a:1", 1.0, 2.5), line("a:3"), line("b:2", 0.25)], [])
    assert read_origins(path) == ["a:1", "a:3", "b:2"]
    (batch,) = read_signals(path)
    assert batch.counts.tolist() == [2, 0, 1]
    assert batch.nll.tolist() == [1.0, 2.5, 0.25]


def test_a_corpus_without_rows_has_an_empty_table(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", [], ["ifd"])
    assert read_origins(tmp_path / "scores.parquet") == []
