"""Signals of a whole corpus on disk: scored shard by shard, read as if they were in memory.

A shard is an Arrow file that appears under its name only when it is complete, so a run that was
killed goes on where it stopped, and a corpus larger than memory can be scored and read.
"""

from __future__ import annotations

import bisect
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ytrainer_core.errors import YTrainerError
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import Row
from ytrainer_core.scoring.signals import (
    BATCH_TOKENS,
    Floats,
    RowSignals,
    losses_of,
    signals_of,
    without_prompt,
)

SHARD_ROWS = 1000
"""Rows of a shard at most: what a killed run loses, and what batches of like length come from."""

SHARD_TOKENS = 2**20
"""Tokens from which on a shard takes no further row."""

_COLUMNS = {
    "nll": np.float32,
    "entropy": np.float32,
    "expected": np.int32,
    "positions": np.int32,
    "top_prob": np.float32,
    "rank": np.int32,
}
_FREE = {"free_nll": np.float32}
"""Columns of a shard, one list a row; they bear the names of RowSignals."""

_CHECKSUM = b"crc32"
"""Key of the schema's metadata under which the checksum of all columns stands."""


def score_rows(
    model: Any,
    rows: Sequence[Row],
    folder: Path,
    *,
    key: str,
    max_length: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    free: bool = False,
    title: str = "",
) -> SignalTable:
    """Signals of every row, with ranks, in shards under folder/key; those there are kept.

    key: names all that the signals depend on (rows, model, max_length). A shard that is damaged
    or lacks what is asked for is computed again. Rows over `max_length` tokens (0: none) are read
    in pieces.

    free: also each target's loss without the prompt, for IFD = ppl(answer | prompt) / ppl(answer)
    (arXiv 2308.12032). It is read in a sequence of the row's trained tokens alone, all answers of
    a conversation one after the other; the row's first token comes before them where it is the
    model's bos token. Without one, nothing predicts the first trained token: its free loss is
    the loss it has in the row, so that it counts as a ratio of one.
    """
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    columns = _COLUMNS | (_FREE if free else {})
    shards: list[_Shard] = []
    first = 0
    with Progress(title or "signals", len(rows)) as progress:
        reading = _Reading(model, max_length, batch_tokens, progress)
        while first < len(rows):
            path = place / f"{first:09d}.arrow"
            shard = _read_shard(path, columns)
            if shard is None or first + len(shard) > len(rows):
                signals = reading.signals(_next_rows(rows, first), free)
                shard = _write_shard(path, signals, columns)
            else:
                progress.advance(len(shard))
            shards.append(shard)
            first += len(shard)
    return SignalTable(shards)


class SignalTable(Sequence[RowSignals]):
    """Signals of row i of the corpus at [i], memory-mapped; iterating reads shard after shard."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> RowSignals: ...
    @overload
    def __getitem__(self, index: slice) -> list[RowSignals]: ...
    def __getitem__(self, index: int | slice) -> RowSignals | list[RowSignals]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]  # raises IndexError, and counts from the end below 0
        shard = bisect.bisect_right(self._ends, at)
        return self._shards[shard].row(at - (self._ends[shard - 1] if shard else 0))

    def __iter__(self) -> Iterator[RowSignals]:
        for shard in self._shards:
            yield from map(shard.row, range(len(shard)))


def _next_rows(rows: Sequence[Row], first: int) -> list[Row]:
    """The rows of the shard that begins with row `first`."""
    chosen: list[Row] = []
    tokens = 0
    for i in range(first, min(first + SHARD_ROWS, len(rows))):
        chosen.append(rows[i])
        tokens += len(chosen[-1]["input_ids"])
        if tokens >= SHARD_TOKENS:
            break
    return chosen


@dataclass(frozen=True)
class _Reading:
    """How rows are read by a model."""

    model: Any
    max_length: int
    batch_tokens: int
    progress: Progress

    def signals(self, rows: Sequence[Row], free: bool) -> list[RowSignals]:
        """Signals of the rows of one shard."""
        signals = signals_of(
            self.model,
            rows,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
            ranks=True,
            progress=self.progress,
        )
        if not free:
            return signals
        losses = self._free_losses(rows)
        return [
            replace(row, free_nll=np.concatenate([row.nll[: len(row.nll) - len(known)], known]))
            for row, known in zip(signals, losses, strict=True)
        ]

    def _free_losses(self, rows: Sequence[Row]) -> list[Floats]:
        """Losses of each row's last targets, those that anything predicts without the prompt."""
        bos_token = causal_lm(self.model).config.get_text_config().bos_token_id
        answers = [without_prompt(row, bos_token) for row in rows]
        return losses_of(
            self.model, answers, max_length=self.max_length, batch_tokens=self.batch_tokens
        )


@dataclass(frozen=True)
class _Shard:
    """Columns of a shard: name -> values of all its rows; row i has those in [bounds[i], i + 1)."""

    bounds: npt.NDArray[np.int32]
    values: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def row(self, index: int) -> RowSignals:
        """Signals of the shard's row `index`."""
        part = slice(*self.bounds[index : index + 2])
        values = {name: column[part] for name, column in self.values.items()}
        for name in ("expected", "positions"):
            values[name] = values[name].astype(np.int64)
        return RowSignals(**values)

    def checksum(self) -> bytes:
        """CRC-32 of bounds and columns."""
        found = zlib.crc32(np.ascontiguousarray(self.bounds).data)
        for name in sorted(self.values):
            found = zlib.crc32(np.ascontiguousarray(self.values[name]).data, found)
        return str(found).encode()


def _write_shard(
    path: Path, signals: Sequence[RowSignals], columns: Mapping[str, npt.DTypeLike]
) -> _Shard:
    """Write a shard whole or not at all (temporary name, fsync, rename), and map it."""
    import pyarrow as pa

    bounds = np.cumsum([0, *(len(row.nll) for row in signals)], dtype=np.int32)
    values = {
        name: np.concatenate([getattr(row, name) for row in signals]).astype(dtype)
        for name, dtype in columns.items()
    }
    batch = pa.record_batch(
        [pa.ListArray.from_arrays(bounds, column) for column in values.values()],
        names=list(values),
        metadata={_CHECKSUM: _Shard(bounds, values).checksum()},
    )
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            with pa.ipc.new_file(file, batch.schema) as stream:
                stream.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    written = _read_shard(path, columns)
    if written is None:
        raise YTrainerError(
            f"{path}: reads otherwise than it was written. Check the disk, delete the file, and "
            "run again."
        )
    return written


def _read_shard(path: Path, columns: Mapping[str, npt.DTypeLike]) -> _Shard | None:
    """The shard, memory-mapped; None where it is missing, damaged, or lacks one of the columns."""
    import pyarrow as pa

    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        batch.validate(full=True)
        lists = {name: batch.column(name) for name in batch.schema.names}
        values = {name: lists[name].values.to_numpy() for name in lists}
        shard = _Shard(lists["nll"].offsets.to_numpy(), values)
    except (OSError, KeyError, ValueError, AttributeError, pa.ArrowException):
        return None
    whole = (batch.schema.metadata or {}).get(_CHECKSUM) == shard.checksum()
    fits = all(n in values and values[n].dtype == dtype for n, dtype in columns.items())
    return shard if whole and fits and len(shard) else None
