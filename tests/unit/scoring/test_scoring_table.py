"""The score table comes back as it was written, and something else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ytrainer_core.errors import DataError
from ytrainer_core.scoring.quality import RowQuality
from ytrainer_core.scoring.signals import RowSignals
from ytrainer_core.scoring.table import read_scores, write_scores


def row(*nll: float) -> RowSignals:
    values = np.asarray(nll, np.float32)
    return RowSignals(values, values / 2, np.zeros(len(nll), np.int64), np.arange(len(nll)))


def quality(score: float) -> RowQuality:
    return RowQuality(score, 1.0, 0.5, np.zeros(0, np.int8), [])


def test_kept_rows_come_back_in_corpus_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.parquet"
    write_scores(
        path,
        keep=[0, 2, 3],
        origins=["a:1", "a:2", "b:1", "b:2"],
        signals=[row(1.0, 2.5), row(9.0), row(), row(0.25)],
        quality=[quality(0.1), quality(9.0), quality(0.0), quality(0.3)],
        flagged=[False, True, False, np.bool_(True)],
    )
    table = read_scores(path)
    assert table.origins == ["a:1", "b:1", "b:2"]
    assert table.scores == [0.1, 0.0, 0.3]
    assert table.flagged == [False, False, True]
    assert [nll.tolist() for nll in table.nll] == [[1.0, 2.5], [], [0.25]]
    assert [entropy.tolist() for entropy in table.entropy] == [[0.5, 1.25], [], [0.125]]
    assert [file.name for file in path.parent.iterdir()] == ["scores.parquet"]


def test_a_corpus_without_rows_has_an_empty_table(tmp_path: Path) -> None:
    write_scores(tmp_path / "s", [], [], [], [], [])
    assert read_scores(tmp_path / "s").scores == []


@pytest.mark.parametrize("kind", ["missing", "text", "other table"])
def test_what_is_no_score_table_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    if kind == "text":
        path.write_text("origin,score\n")
    elif kind == "other table":
        pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match="is not a score table"):
        read_scores(path)
