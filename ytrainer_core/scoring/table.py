"""The score table: one Parquet row per corpus row, with the signals of its tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ytrainer_core.data.corpus import batched
from ytrainer_core.scoring.signals import Floats

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1000


@dataclass(frozen=True)
class ScoredLine:
    """One row of the table.

    score: by the configured method, higher is more suspicious; flagged by it. mean_nll,
    mean_entropy: nats per target. nll, entropy: [targets], nats. scores: of every method.
    """

    origin: str
    score: float
    flagged: bool
    mean_nll: float
    mean_entropy: float
    nll: Floats
    entropy: Floats
    scores: dict[str, float]


def write_scores(path: Path, lines: Iterable[ScoredLine], methods: Sequence[str]) -> None:
    """Write the table atomically, some rows at a time.

    methods: each becomes a column score_METHOD, null in rows that have no such score.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    schema = table_schema(methods)
    with pq.ParquetWriter(temporary, schema) as writer:
        for batch in batched(lines, _BATCH_ROWS):
            writer.write_batch(_record_batch(batch, schema, methods))
    os.replace(temporary, path)


def table_schema(methods: Sequence[str]) -> pa.Schema:
    """The columns of a table with the scores of these methods."""
    import pyarrow as pa

    tokens = pa.list_(pa.float32())
    return pa.schema(
        {
            "origin": pa.string(),
            "score": pa.float64(),
            "flagged": pa.bool_(),
            "mean_nll": pa.float64(),
            "mean_entropy": pa.float64(),
            "nll": tokens,
            "entropy": tokens,
            **{f"score_{method}": pa.float64() for method in methods},
        }
    )


def _record_batch(
    lines: Sequence[ScoredLine], schema: pa.Schema, methods: Sequence[str]
) -> pa.RecordBatch:
    import pyarrow as pa

    own = [field.name for field in fields(ScoredLine) if field.name != "scores"]
    columns = {name: [getattr(line, name) for line in lines] for name in own}
    columns |= {f"score_{m}": [line.scores.get(m) for line in lines] for m in methods}
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)
