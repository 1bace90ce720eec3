"""Who checks the shards of a corpus: this process while it reads, or a process for every core.

Processes are not forked, because threads of this one may hold locks, so they take some seconds to
start. Until then this process checks by itself.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.reader import RawRow
from ytrainer_core.data.shards import Checker

WORTH_PROCESSES = 16 << 20
"""Bytes of sources above which processes are started; below, starting them takes longer."""

THREADS = 2
"""Threads that check a corpus too small for processes: Python runs in one of them at a time, while
the other one's tokenizer works."""


class Workers:
    """Writes shards; leaving the block ends what is not begun.

    size: bytes of the sources; data.workers decides instead where it is set.
    """

    def __init__(self, checker: Checker, config: DataConfig, size: int) -> None:
        self._checker = checker
        threads, count = 1, config.workers or cores()
        if not config.workers and size <= WORTH_PROCESSES:
            threads, count = min(THREADS, cores()), 1
        self._threads = ThreadPoolExecutor(threads)
        self._processes = _processes(checker, count) if count > 1 else None
        self._ready = self._processes.submit(_nothing) if self._processes else None

    def write(self, source: str, raws: Sequence[RawRow], path: Path) -> Future[None]:
        """Have a shard of one source written, as Checker.write does."""
        if self._processes and self._ready and self._ready.done():
            return self._processes.submit(_write, source, raws, path)
        return self._threads.submit(self._checker.write, source, raws, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in filter(None, (self._threads, self._processes)):
            pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Processor cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def _processes(checker: Checker, count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers"])
    return ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(checker,))


_checker: list[Checker] = []
"""The checker of a worker process."""


def _start(checker: Checker) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _checker[:] = [checker]


def _nothing() -> None:
    """A task that is done once a process has started."""


def _write(source: str, raws: Sequence[RawRow], path: Path) -> None:
    _checker[0].write(source, raws, path)
