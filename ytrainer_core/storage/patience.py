"""How long a transfer is tried again before it is given up."""

from __future__ import annotations

import logging
import random
import threading

from ytrainer_core.storage.faults import explained, passes, said

# Tries without a byte of progress before a transfer is given up; each holds botocore's own tries.
_TRIES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds, the upper ends

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """Another transfer of the same call has failed, so this one need not go on."""


class Patience:
    """How often in a row something may fail before it is given up."""

    def __init__(self, uri: str, stopped: threading.Event) -> None:
        self.uri, self.stopped, self.failures = uri, stopped, 0

    def bear(self, error: Exception) -> None:
        """Wait, longer every time. Raises DataError where waiting helps not, or not any more."""
        self.failures += 1
        if self.failures >= _TRIES or not passes(error):
            raise explained(self.uri, error) from error
        pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.failures - 1)))
        logger.warning("%s: %s; trying again in %.1f s", self.uri, said(error), pause)
        if self.stopped.wait(pause):
            raise Stopped
