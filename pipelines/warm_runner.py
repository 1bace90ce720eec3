"""Run a pipeline's steps on this machine without every one of them importing torch anew.

kfp starts a Python for each step, and most of a short step's time goes into imports. Here they are
forked from one process that has them (pipelines/warm_steps.py). What a step is given and what it
leaves behind is the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.warm_steps import SIZE_BYTES

_EXECUTOR = "kfp.dsl.executor_main"
_ANSWER_BYTES = 32
_LOST = 1
"""Exit code of a step that went with the process it was forked from."""

_SHELL = ["sh", "-ec"]


@contextlib.contextmanager
def subprocess_runner() -> Iterator[Any]:
    """A runner for kfp.local.init(); while it is open, steps start warm where they can."""
    from kfp import local
    from kfp.local import subprocess_task_handler as handler

    runner = local.SubprocessRunner(use_venv=False)
    if not can_fork():
        yield runner
        return
    cold = handler.run_local_subprocess
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server() -> _Server | None:
            """Started by the first step, so that it has the environment that steps get."""
            return stack.enter_context(_Server.started())

        def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
            warm = server() if _is_known(full_command) else None
            if warm is None:
                return int(cold(full_command, env_vars))
            return warm.run(full_command[3], full_command[4:], env_vars or {})

        handler.run_local_subprocess = run
        try:
            yield runner
        finally:
            handler.run_local_subprocess = cold


def can_fork() -> bool:
    """Whether a process that has imported torch can be forked: on Linux, without CUDA or ROCm.

    A package that asks for GPUs when it is imported would leave none to a forked process.
    """
    torch = importlib.util.find_spec("torch")
    if sys.platform != "linux" or torch is None or torch.origin is None:
        return False
    built = runpy.run_path(str(Path(torch.origin).with_name("version.py")))  # not torch itself
    return built.get("cuda") is None and built.get("hip") is None


def _is_known(command: list[str]) -> bool:
    """Whether it is kfp's way to run a Python component: a shell script, the program, arguments."""
    return command[:2] == _SHELL and len(command) > 3 and f"-m {_EXECUTOR}" in command[2]


class _Server:
    """The process that steps are forked from."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[_Server | None]:
        """It ends with the block, or with this process; None where it cannot serve."""
        program = Path(__file__).with_name("warm_steps.py")
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                # -P: this folder has modules that are called like some of Python's
                process = subprocess.Popen(
                    [sys.executable, "-P", str(program), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "_KFP_RUNTIME": "true"},
                )
            try:
                yield cls(ours) if ours.recv(_ANSWER_BYTES) else None
            finally:
                ours.close()
                process.wait()

    def run(self, source: str, arguments: list[str], variables: Mapping[str, str]) -> int:
        """Run one step and print what it prints; returns its exit code."""
        with tempfile.TemporaryDirectory() as folder:
            component = Path(folder) / "component.py"
            component.write_text(source, encoding="utf-8")
            request = {
                "arguments": ["--component_module_path", str(component), *arguments],
                "environment": {**os.environ, **variables, "_KFP_RUNTIME": "true"},
            }
            try:
                with self._asked(json.dumps(request).encode()) as printed:
                    for line in printed:
                        print(line, end="")
                return int(self._connection.recv(_ANSWER_BYTES) or _LOST)
            except ConnectionError:
                return _LOST

    @contextlib.contextmanager
    def _asked(self, request: bytes) -> Iterator[Any]:
        """Send a request, never by way of the disk: it has secrets. Gives what the step prints."""
        read, write = os.pipe()
        with open(read, encoding="utf-8", errors="replace") as printed:  # noqa: PTH123
            try:
                size = len(request).to_bytes(SIZE_BYTES)
                socket.send_fds(self._connection, [size], [write])
                self._connection.sendall(request)
            finally:
                os.close(write)
            yield printed
