"""Processes that end with the one that started them, even where that one was killed."""

from __future__ import annotations

import os
import threading
import time

import psutil

_WATCH_SECONDS = 0.5

POD_NAME_VARIABLE = "KFP_POD_NAME"
"""Environment variable of a Kubeflow step: its pod's whole name; a host's is cut at 63."""


def end_with(pid: int, exit_code: int) -> None:
    """End this process soon after process `pid` is gone.

    Without it, a parent killed by SIGKILL would leave its training running.
    """

    def watch() -> None:
        while not is_gone(pid):
            time.sleep(_WATCH_SECONDS)
        os._exit(exit_code)

    threading.Thread(target=watch, daemon=True, name=f"watch-{pid}").start()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for (a zombie) has."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
