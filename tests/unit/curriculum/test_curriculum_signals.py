"""The score table is read in batches, each with the tokens of its own rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ytrainer_core.curriculum.signals import SignalBatch, read_origins, read_signals
from ytrainer_core.errors import DataError
from ytrainer_core.scoring.table import ScoredLine, write_scores

NLL = [[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0], [7.0]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """As the score stage writes it."""
    lines = [
        ScoredLine(
            origin=f"a:{i}",
            score=0.0,
            flagged=False,
            mean_nll=0.0,
            mean_entropy=0.0,
            nll=np.array(nll, np.float32),
            entropy=np.array(nll, np.float32) / 2,
            scores={},
        )
        for i, nll in enumerate(NLL)
    ]
    write_scores(tmp_path / "scores", lines, [])
    return tmp_path / "scores"


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_batches_hold_all_rows_in_order_however_they_are_cut(table: Path, batch_rows: int) -> None:
    batches = list(read_signals(table, batch_rows))
    assert [len(batch.counts) for batch in batches][:-1] == [batch_rows] * (len(batches) - 1)
    assert np.concatenate([batch.counts for batch in batches]).tolist() == [2, 0, 1, 3, 1]
    assert np.concatenate([batch.nll for batch in batches]).tolist() == [1, 2, 3, 4, 5, 6, 7]
    for batch in batches:
        assert batch.counts.sum() == len(batch.nll) == len(batch.entropy)
        assert (batch.entropy * 2).tolist() == batch.nll.tolist()
    assert read_origins(table) == ["a:0", "a:1", "a:2", "a:3", "a:4"]


def test_sums_and_means_are_of_each_row() -> None:
    values = np.array([1.0, 2.0, 6.0])
    batch = SignalBatch(values, values, counts=np.array([0, 2, 0, 1]))
    assert batch.sums(values).tolist() == [0, 3, 0, 6]
    assert batch.means(values).tolist() == [0, 1.5, 0, 6]


@pytest.mark.parametrize("kind", ["missing", "text", "other table"])
def test_what_is_no_score_table_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scores"
    if kind == "text":
        path.write_text("origin,nll\n")
    elif kind == "other table":
        pq.write_table(pa.table({"a": [1]}), path)
    for read in (read_origins, lambda path: list(read_signals(path))):
        with pytest.raises(DataError, match="is not a score table"):
            read(path)
