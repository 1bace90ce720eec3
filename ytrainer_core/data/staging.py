"""The rows of a corpus on their way into it: shard after shard, by one process or several.

A shard is a run of a source's rows, written whole or not at all by whoever checks it: this process,
or for large corpora one worker process per core. Memory holds a few numbers a row, and a
preparation that was cut off goes on with the shards that it finds.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import shutil
import sys
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ytrainer_core import __version__
from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import RULES
from ytrainer_core.data.compare import BANDS, Index
from ytrainer_core.data.corpus import row_of, row_schema
from ytrainer_core.data.formats import Row
from ytrainer_core.data.reader import RawRow, Source, mixed_shapes, parse_raw, raw_rows
from ytrainer_core.data.shards import (
    DIGEST_BYTES,
    RULE_NUMBERS,
    UNKNOWN,
    Checker,
    read_shard,
)
from ytrainer_core.data.tokenize import tokenizer_digest
from ytrainer_core.data.workers import Workers
from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import forget_old, home, sha256_json

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

# Raise it when the same rows give other shards than before, within one version of the package.
_VERSION = 3

SHARD_ROWS = 2000
SHARD_CHARACTERS = 4 << 20
"""A shard ends at so many rows, or so many characters of them."""

_WAITING_SHARDS = 4
"""Shards that are read ahead."""

_LATER_KNOBS = (
    "replay_ratio",
    "earlier_ratio",
    "validation_fraction",
    "validation_rows",
    "min_rows",
    "sample_by",
    "join_probability",
    "on_invalid",
    "max_dropped",
    "near_duplicate_similarity",
    "workers",
)
"""Knobs that come after the shards: whoever turns one of them finds the shards again."""


# --- all shards of a split -----------------------------------------------------------------------


class Staged:
    """The rows of one split that were read: a few numbers for each, and the shards they lie in.

    Positions count the rows read, from 0. All arrays are [rows].
    """

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self.name, self.sources = name, sources
        self.shards: list[Path] = []
        self.begins: list[int] = [0]
        self.shapes: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._parts: dict[str, list[Any]] = {}
        self._open: tuple[int, pa.RecordBatch] | None = None

    def add(self, path: Path, source: int) -> None:
        """Take in a shard. source: number of the source it was read from."""
        batch = read_shard(path)
        rows = batch.num_rows
        for name in ("warnings", "kind", "length", "targets", "characters", "system"):
            self._part(name, batch.column(name).to_numpy().copy())
        for name in ("whole", "prompt"):
            self._part(name, _digests(batch.column(name)))
        bands = batch.column("bands").flatten().to_numpy().copy()
        self._part("bands", bands.reshape(rows, BANDS))
        rules = batch.column("rule").to_pylist()
        self._part("rules", np.array([RULE_NUMBERS.get(r, UNKNOWN) for r in rules], np.int16))
        self.shapes[source].update(filter(None, batch.column("shape").to_pylist()))
        self._part("source", np.full(rows, source, np.int32))
        self.shards.append(path)
        self.begins.append(self.begins[-1] + rows)

    def _part(self, name: str, values: Any) -> None:
        self._parts.setdefault(name, []).append(values)

    def of(self, name: str) -> Any:
        """What is known of every row: one of the names in _EMPTY."""
        parts = self._parts.get(name)
        if not parts:
            return _EMPTY[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    @property
    def read(self) -> int:
        """Rows read."""
        return self.begins[-1]

    @cached_property
    def index(self) -> Index:
        """Fingerprints of the rows that broke no rule by themselves."""
        clean = np.flatnonzero(self.of("rules") == UNKNOWN)
        return Index(clean, *(self.of(name)[clean] for name in ("whole", "prompt", "bands")))

    def own_rules(self) -> Counter[str]:
        """Rows that broke an error rule by themselves, by rule."""
        names = list(RULES)
        return Counter(names[number] for number in self.of("rules") if number != UNKNOWN)

    def batches(self, positions: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """The staged rows at these positions, in their order; ascending runs are read in one go."""
        import pyarrow as pa

        for begin, end in ascending_runs(positions):
            run = positions[begin:end]
            for number, path in enumerate(self.shards):
                low, high = np.searchsorted(run, self.begins[number : number + 2])
                if low == high:
                    continue
                at = run[low:high] - self.begins[number]
                yield read_shard(path).take(pa.array(at))

    def records(self, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The staged rows at these positions as dicts."""
        for batch in self.batches(np.fromiter(positions, np.int64)):
            yield from batch.to_pylist()

    def row(self, position: int) -> Row:
        """One staged row; its shard stays open until a row of another one is asked for."""
        number = bisect.bisect_right(self.begins, position) - 1
        if self._open is None or self._open[0] != number:
            self._open = number, read_shard(self.shards[number]).select(row_schema().names)
        record = self._open[1].slice(position - self.begins[number], 1)
        return row_of(record.to_pylist()[0])


_EMPTY: dict[str, Any] = {
    "warnings": np.empty(0, np.uint64),
    "length": np.empty(0, np.int32),
    "targets": np.empty(0, np.int32),
    "characters": np.empty(0, np.int32),
    "system": np.empty(0, np.uint64),
    "rules": np.empty(0, np.int16),
    "kind": np.empty(0, np.uint8),
    "source": np.empty(0, np.int32),
    "whole": np.empty((0, 2), np.uint64),
    "prompt": np.empty((0, 2), np.uint64),
    "bands": np.empty((0, BANDS), np.uint64),
}


def ascending_runs(positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """[begin, end) of the stretches in which positions ascend strictly."""
    breaks = np.flatnonzero(np.diff(positions) <= 0) + 1
    bounds = [0, *breaks.tolist(), len(positions)]
    return ((a, b) for a, b in pairwise(bounds) if a < b)


def _digests(column: Any) -> npt.NDArray[np.uint64]:
    """[rows, 2] of a column of 16 bytes."""
    data = column.buffers()[1]
    begin = column.offset * DIGEST_BYTES
    raw = memoryview(data)[begin : begin + len(column) * DIGEST_BYTES]
    return np.frombuffer(raw, np.uint64).reshape(-1, 2).copy()


# --- staging -------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging_folder(key: str) -> Iterator[Path]:
    """Where the shards of a preparation lie; those of an earlier attempt at the same are there.

    It is deleted when the block ends without an error. Another process that prepares the same
    at this time has the folder to itself, and this one a folder of its own.
    """
    parent = home() / "cache" / "staging"
    parent.mkdir(parents=True, exist_ok=True)
    forget_old(parent)
    with (parent / f"{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = parent / key
            folder.mkdir(exist_ok=True)
        except BlockingIOError:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{key}."))
        yield folder
        shutil.rmtree(folder)


def staging_key(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    sources: Sequence[tuple[str, str, str]],
) -> str:
    """Name of all that shards depend on. sources: (split, name, sha256) of every file, in order."""
    tokens = tokenizer_digest(tokenizer) if tokenizer is not None else ""
    knobs = config.model_dump(mode="json", exclude=set(_LATER_KNOBS))
    return sha256_json([__version__, _VERSION, knobs, tokens, sources])[:32]


class Stager:
    """Writes the shards of splits, with as many processes as the corpus is worth.

    Raises DataError for what makes a whole source unreadable.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase | None,
        folder: Path,
    ) -> None:
        self._config, self._tokenizer, self._folder = config, tokenizer, folder

    def stage(self, name: str, sources: Sequence[Source], measured: bool) -> Staged:
        """Read one split. measured: as Checker takes it."""
        staged = Staged(name, sources)
        if not sources:
            return staged
        checker = Checker(self._config, self._tokenizer, measured=measured)
        size = sum(source.path.stat().st_size for source in sources)
        with Workers(checker, self._config, size) as workers:
            for shard in self._written(self._shards(name, sources), workers):
                staged.add(shard.path, shard.source)
                self._refuse_mixed(sources[shard.source], staged.shapes[shard.source].keys())
        return staged

    def _shards(self, name: str, sources: Sequence[Source]) -> Iterator[_Shard]:
        left = self._config.max_rows or sys.maxsize
        for number, source in enumerate(sources):
            for count, raws in enumerate(_runs(islice(raw_rows(source, self._config), left))):
                left -= len(raws)
                path = self._folder / f"{name}-{number:04}-{count:06}.arrow"
                yield _Shard(number, source.name, raws, path)
            if left <= 0:
                return

    def _written(self, shards: Iterator[_Shard], workers: Workers) -> Iterator[_Shard]:
        """The shards in order, once they are written; some are read ahead."""
        waiting: deque[tuple[_Shard, Future[None] | None]] = deque()

        def first() -> _Shard:
            shard, task = waiting.popleft()
            if task is not None:
                task.result()
            return shard

        try:
            for shard in shards:
                task = None
                if not shard.path.exists():
                    task = workers.write(shard.name, shard.raws, shard.path)
                waiting.append((shard, task))
                if len(waiting) > _WAITING_SHARDS:
                    yield first()
            while waiting:
                yield first()
        except BrokenProcessPool as error:
            raise YTrainerError(
                "a process that checked rows ended without saying why; memory may have run out. "
                "Set data.workers=1. What is done is kept."
            ) from error

    def _refuse_mixed(self, source: Source, shapes: Set[str]) -> None:
        """Raise DataError with the first row of each shape, where a file holds several."""
        if self._config.format != "auto" or len(shapes) < 2:
            return
        first: dict[str, RawRow] = {}
        for raw in raw_rows(source, self._config):
            _, shape = parse_raw(source.name, raw, self._config)
            if shape:
                first.setdefault(shape, raw)
        raise mixed_shapes(source.name, first)


@dataclass(frozen=True)
class _Shard:
    """Rows of one source (its number and name), and where they will lie."""

    source: int
    name: str
    raws: list[RawRow]
    path: Path


def _runs(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """Rows in runs of a shard's size."""
    run: list[RawRow] = []
    characters = 0
    for row in rows:
        run.append(row)
        characters += len(row.raw)
        if len(run) == SHARD_ROWS or characters >= SHARD_CHARACTERS:
            yield run
            run, characters = [], 0
    if run:
        yield run
