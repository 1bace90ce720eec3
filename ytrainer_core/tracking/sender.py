"""A run's records go to disk at once and to MLflow from a thread of their own.

The training waits for neither: when MLflow does not answer, the records stay on disk
until it does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from ytrainer_core.tracking.delivery import Delivery
from ytrainer_core.tracking.journal import Journal

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0
"""Pauses between attempts double up to here: a server that starts is not run over."""
_HANDOVER_SECONDS = 1.0
"""A thread that is not caught in a request lays the journal down within this after its time."""


class Sender:
    """Delivers one journal, from its making until finish().

    complain: told what MLflow said when it did not take the records; they are kept.
    """

    def __init__(
        self, journal: Journal, delivery: Delivery, complain: Callable[[Exception], None]
    ) -> None:
        self._journal, self._delivery, self._complain = journal, delivery, complain
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._deadline = float("inf")
        self._is_delivered = False
        run_id = journal.about["run_id"]
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"mlflow-{run_id}")
        self._thread.start()

    def put(self, kind: str, **fields: Any) -> None:
        """Record something. Raises OSError where it cannot be written down."""
        if self._finishing.is_set():
            raise OSError("the run has ended")
        self._journal.append(kind, **fields)
        self._wake.set()

    def finish(self, patience: float) -> bool:
        """Wait up to `patience` seconds until all is delivered; whether it is.

        What is not stays on disk for whoever connects to the store next.
        """
        self._deadline = time.monotonic() + patience
        self._finishing.set()
        self._wake.set()
        self._thread.join(patience + _HANDOVER_SECONDS)
        return self._is_delivered

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            is_last = self._finishing.is_set()
            if not self._deliver() or is_last:
                break
        self._is_delivered = self._journal.close()

    def _deliver(self) -> bool:
        """Try until it works (True), or until the deadline (False)."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._delivery.deliver()
                return True
            except Exception as error:  # whatever MLflow, SQLAlchemy or the network may raise
                with contextlib.suppress(OSError):  # a disk that fails is told of by what needs it
                    self._journal.sync()
                self._complain(error)
            left = self._deadline - time.monotonic()
            if left <= 0:
                return False
            if self._finishing.is_set():
                time.sleep(min(pause, left))
            elif self._finishing.wait(pause):
                pause = 0.0  # the end has come: at once, then as in the beginning
            pause = min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
