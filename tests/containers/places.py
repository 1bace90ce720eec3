"""What the tests of containers stand on: the built image, and the servers that its steps reach."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import Engine

BUCKET = "work"
_SERVER_SECONDS = 240


@dataclass(frozen=True)
class Image:
    """The cpu image. name: its reference, in full. build_seconds: what the build took."""

    name: str
    engine: Engine
    build_seconds: float


@dataclass(frozen=True)
class Servers:
    """An MLflow server that keeps its files in an S3 server's bucket. variables: to reach both."""

    mlflow: str
    variables: dict[str, str]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """URI of `mlflow server` on sqlite, in a process group that is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, log = f"http://127.0.0.1:{port}", folder / "mlflow.txt"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    process = subprocess.Popen(
        command, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        until = time.monotonic() + _SERVER_SECONDS
        while not _answers(uri):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "no mlflow server"
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def _answers(uri: str) -> bool:
    try:
        urllib.request.urlopen(f"{uri}/health", timeout=5).close()
    except OSError:
        return False
    return True


FIGURES: list[str] = []
"""What was measured, for the end of pytest's output."""


def tell(figure: str) -> None:
    """Keep a figure for the end."""
    FIGURES.append(figure)
