"""Progress of long work: a bar on a terminal, one line a minute elsewhere, always on stderr."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

PROGRESS_SECONDS_VARIABLE = "YTRAINER_PROGRESS_SECONDS"
"""Environment variable: seconds between two lines where there is no terminal; 60 if unset."""


class Progress:
    """Counts steps of one piece of work.

    Use as a context manager and call `advance` after each step.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._last_line = time.monotonic()
        self._pause = float(os.environ.get(PROGRESS_SECONDS_VARIABLE) or 60)
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report `steps` more done; note: what to show beside the count, e.g. the loss."""
        self._done += steps
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= self._pause:
            self._last_line = now
            line = f"{self._title}: {self._done}/{self._total} {note}".rstrip()
            print(line, file=sys.stderr, flush=True)
