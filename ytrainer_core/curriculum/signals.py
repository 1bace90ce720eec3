"""What the score table tells of the rows, some thousand rows at a time.

A table of a million rows holds gigabytes of token signals, of which an order keeps one number a
row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class SignalBatch:
    """Signals of some rows, one row's targets behind the other's.

    nll, entropy: [targets], nats. counts: [rows], targets of each row.
    """

    nll: Floats
    entropy: Floats
    counts: Ints

    @cached_property
    def row(self) -> Ints:
        """[targets]: the number, in this batch, of the row that a target is in."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """[rows]: sums of `values` [targets] over each row; 0 for a row without targets."""
        return np.bincount(self.row, values, minlength=len(self.counts)).astype(np.float64)

    def means(self, values: npt.NDArray[Any]) -> Floats:
        """[rows]: means of `values` [targets] over each row; 0 for a row without targets."""
        return self.sums(values) / np.maximum(self.counts, 1)


def read_origins(path: Path) -> list[str]:
    """The origins of the rows of a score table. Raises DataError where it is none."""
    import pyarrow.parquet as pq

    with _as_score_table(path):
        origins: list[str] = pq.read_table(path, columns=["origin"])["origin"].to_pylist()
    return origins


def read_signals(path: Path, batch_rows: int = _BATCH_ROWS) -> Iterator[SignalBatch]:
    """The signals of a score table, in the order of its rows. Raises DataError where it is none."""
    import pyarrow.parquet as pq

    with _as_score_table(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=["nll", "entropy"]):
            nll, entropy = batch.column("nll"), batch.column("entropy")
            yield SignalBatch(
                nll=_numbers(nll.flatten(), np.float64),
                entropy=_numbers(entropy.flatten(), np.float64),
                counts=_numbers(nll.value_lengths().fill_null(0), np.int64),
            )


def _numbers(array: Any, dtype: Any) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False).astype(dtype)
    return found


@contextmanager
def _as_score_table(path: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException, KeyError) as error:
        raise DataError(
            f"{path}: is not a score table. Give the 'scores' output of the score stage."
        ) from error
