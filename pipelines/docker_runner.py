"""Run a pipeline's steps in containers on this machine, so that a failed step fails the run.

kfp's own DockerRunner has containers remove themselves, and takes one that is gone before
it was asked for its exit code for a success. Here a container is created, started, heard to
its end, asked, and only then removed.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ytrainer_core.errors import StageFailed

_KILLED = 137
"""Exit code of a process that SIGKILL ended: 128 + 9."""


@contextlib.contextmanager
def docker_runner(
    *,
    environment: Mapping[str, str] | None = None,
    folders: Mapping[Path, bool] | None = None,
    **run_arguments: Any,
) -> Iterator[Any]:
    """A runner for kfp.local.init(); while it is open, every container step of kfp is run by us.

    environment: variables of every step. folders: folders of this machine that steps see under
    the same path, and whether they may write there; the pipeline root is seen in any case.
    run_arguments: others of docker's create, such as network_mode, user, shm_size, device_requests.
    The daemon is the one that DOCKER_HOST names.
    """
    from docker.types import Mount  # type: ignore[import-not-found]
    from kfp import local
    from kfp.local import docker_task_handler as handler

    mounts = [
        Mount(str(path), str(path), type="bind", read_only=not writable)
        for path, writable in (folders or {}).items()
    ]
    theirs = handler.run_docker_container
    handler.run_docker_container = run_container
    try:
        yield local.DockerRunner(
            environment=dict(environment or {}), mounts=mounts, **run_arguments
        )
    finally:
        handler.run_docker_container = theirs


def run_container(
    client: Any, image: str, command: list[str], volumes: dict[str, Any], **run_arguments: Any
) -> int:
    """Run one step and print what it prints; returns its exit code.

    The container does not outlive the call, however that ends. Raises StageFailed where the
    image is neither here nor to be had, or the container cannot start.
    """
    from docker.errors import APIError  # type: ignore[import-not-found]

    try:
        container = client.containers.create(
            _present(client, image), command, volumes=volumes, detach=True, **run_arguments
        )
    except APIError as error:
        raise StageFailed(_refused(image, error)) from error
    try:
        container.start()
        _print_logs(container)
        code = int(container.wait()["StatusCode"])
        container.reload()
        if code == _KILLED:
            memory = container.attrs["State"].get("OOMKilled")
            print(f"the container was killed{': its memory was not enough' if memory else ''}.")
        return code
    except APIError as error:
        raise StageFailed(_refused(image, error)) from error
    finally:
        container.remove(force=True)


def _present(client: Any, image: str) -> str:
    """The image's reference, after it was pulled where this machine does not have it."""
    from docker.errors import APIError, ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        print(f"pulling {image}")
        try:
            client.images.pull(image)
        except APIError as error:
            raise StageFailed(
                f"image {image} is neither on this machine nor can it be pulled "
                f"({error.explanation}). Build it with `make images`, or name another."
            ) from error
    return image


def _print_logs(container: Any) -> None:
    """Print what a container prints until it ends, whole characters at a time.

    podman answers with the first byte, and never where a container ended just before it was asked:
    after a minute of silence docker's client gives up, and we look for ourselves.
    """
    from requests.exceptions import ReadTimeout

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while True:
        try:
            for piece in container.logs(stream=True, follow=True):
                print(decoder.decode(piece), end="")
            return
        except ReadTimeout:
            container.reload()
            if container.status != "running":
                print(decoder.decode(container.logs()), end="")
                return


def _refused(image: str, error: Any) -> str:
    return f"a container of {image} could not be run: {error.explanation or error}"
