"""The score table: one Parquet row per corpus row, with the signals of its tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ytrainer_core.errors import DataError
from ytrainer_core.scoring.quality import RowQuality
from ytrainer_core.scoring.signals import RowSignals


@dataclass(frozen=True)
class ScoreTable:
    """Scores in corpus order. nll, entropy: per row [targets], nats."""

    origins: list[str]
    scores: list[float]
    flagged: list[bool]
    nll: list[npt.NDArray[np.float64]]
    entropy: list[npt.NDArray[np.float64]]


def write_scores(
    path: Path,
    keep: Sequence[int],
    origins: Sequence[str],
    signals: Sequence[RowSignals],
    quality: Sequence[RowQuality],
    flagged: Sequence[bool],
) -> None:
    """Write the kept rows' scores and signals, in corpus order, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "origin": [origins[i] for i in keep],
            "score": [quality[i].score for i in keep],
            "mean_nll": [quality[i].mean_nll for i in keep],
            "mean_entropy": [quality[i].mean_entropy for i in keep],
            "flagged": [flagged[i] for i in keep],
            "nll": pa.array([signals[i].nll for i in keep], pa.list_(pa.float32())),
            "entropy": pa.array([signals[i].entropy for i in keep], pa.list_(pa.float32())),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def read_scores(path: Path) -> ScoreTable:
    """Read a score table. Raises DataError where it is missing or not one."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(path)
        return ScoreTable(
            origins=table["origin"].to_pylist(),
            scores=table["score"].to_pylist(),
            flagged=table["flagged"].to_pylist(),
            nll=[np.asarray(row.values, np.float64) for row in table["nll"]],
            entropy=[np.asarray(row.values, np.float64) for row in table["entropy"]],
        )
    except (OSError, ArrowException, KeyError) as error:
        raise DataError(
            f"{path}: is not a score table. Give the 'scores' output of the score stage."
        ) from error
