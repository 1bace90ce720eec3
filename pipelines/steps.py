"""The running steps of a local pipeline end with it: on Ctrl-C, SIGTERM, and when time is up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import psutil

from ytrainer_core.errors import TimedOut
from ytrainer_core.processes import is_gone

_GRACE_SECONDS = 8.0
"""Time in which a step may close its run and files; CI ends a cancelled job after ten seconds."""
_LOOK_SECONDS = 0.05


@contextlib.contextmanager
def steps_end_with_us(limit: float = 0.0) -> Iterator[None]:
    """End all child processes before an interruption is raised here.

    limit: seconds after which TimedOut is raised; 0 waits for ever. Otherwise KeyboardInterrupt.
    Outside of the main thread, which alone gets signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def stop(signum: int, frame: object) -> None:
        caught.append(signum)
        end_children()
        # this very class: subprocess would wait for the child on any other
        raise KeyboardInterrupt(signal.Signals(signum).name)

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {each: signal.signal(each, stop) for each in watched}
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if signal.SIGALRM in caught:
            raise TimedOut(
                f"the pipeline was not done after {limit / 60:.3g} minutes and was ended. A second "
                "start continues from the last checkpoint; --timeout allows it more."
            ) from interrupt
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt here, as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(signum).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_children() -> None:
    """Ask every process below this one to end, and kill what has not done so in time."""
    processes = psutil.Process().children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    until = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < until and not all(is_gone(each.pid) for each in processes):
        time.sleep(_LOOK_SECONDS)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
