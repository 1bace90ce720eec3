"""Which process a run belongs to, whether it still lives, and which code it runs."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

HOST_TAG = "ytrainer.host"
PID_TAG = "ytrainer.pid"
START_TAG = "ytrainer.process_start"

_CLOCK_SECONDS = 5.0
"""Start times of one process may differ by this much: Linux derives them from the wall clock."""


def process_tags() -> dict[str, str]:
    """The tags by which another process finds out whether this one still lives."""
    return {
        HOST_TAG: host(),
        PID_TAG: str(os.getpid()),
        START_TAG: repr(psutil.Process().create_time()),
    }


def host() -> str:
    """This host and its process namespace: pids mean nothing in another container."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace}"


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process of these tags still lives (and is not another of its pid)."""
    try:
        process = psutil.Process(int(tags.get(PID_TAG, "")))
        is_same = abs(process.create_time() - float(tags.get(START_TAG, ""))) < _CLOCK_SECONDS
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError):
        return False


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def git_sha() -> str:
    """Commit of ytrainer's code: YTRAINER_GIT_SHA, else its checkout's, else empty."""
    if sha := os.environ.get("YTRAINER_GIT_SHA"):
        return sha
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        # Without this, a venv inside somebody else's repository would give that one's commit.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""
