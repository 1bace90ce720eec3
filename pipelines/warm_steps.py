"""Forks a pipeline's steps from one process that has imported what they share.

Run as a program by `pipelines.warm_runner`, which waits until it is told READY, sends the length of
a request with a pipe for all that the step prints, then the request, and gets the step's exit code.
Nothing of ours is imported at the top, since kfp reads an environment variable of its runtime when
it is imported.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

SHARED = (
    "kfp.dsl.executor_main",
    "ytrainer_core.training.engine",
    "peft",
    "datasets",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
)
"""What most steps import, and takes them most of the time until they begin."""

READY = b"ready"
"""What is sent once, when all imports have succeeded."""

SIZE_BYTES = 8
"""Of the number that is sent first."""


def main(connection: socket.socket) -> None:
    """Serve steps one after the other until the other side is gone; a fork returns as its step."""
    leaving = _Leaving()
    atexit.register(leaving.now)  # the first one in is the last one called
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pipeline and its steps
    _import_shared()
    connection.sendall(READY)
    gc.freeze()  # a collection in a fork would copy every page of what is shared
    while True:
        size, pipes, *_ = socket.recv_fds(connection, SIZE_BYTES, 1)
        if not size:
            return
        with connection.makefile("rb") as stream:
            request = stream.read(int.from_bytes(size))
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become_step(json.loads(request), pipes[0])
            leaving.code = _exit_code_of_step()
            return
        os.close(pipes[0])
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # the pipeline is gone, and the next turn ends
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


class _Leaving:
    """Ends the process once all else is done: taking torch apart would take it a second."""

    code: int = 0

    def now(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def _import_shared() -> None:
    from ytrainer_core.reports.svg import plain_matplotlib
    from ytrainer_core.stages.run import quiet_libraries
    from ytrainer_core.tracking.store import quiet_mlflow

    quiet_libraries()
    quiet_mlflow()
    for name in SHARED:
        importlib.import_module(name)
    with plain_matplotlib(""):
        pass


def _become_step(request: dict[str, Any], pipe: int) -> None:
    """Take over arguments and environment; print into the pipe."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(pipe, stream)
    os.close(pipe)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]


def _exit_code_of_step() -> int:
    from kfp.dsl.executor_main import executor_main

    try:
        executor_main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
