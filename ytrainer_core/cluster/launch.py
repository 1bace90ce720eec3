"""A TrainJob from its making to its end: followed, its logs passed on, deleted afterwards.

A launcher that is started again goes on with the TrainJob that the earlier one left. Where a
launcher is killed, the TrainJob's ownerReference lets the cluster delete it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ytrainer_core.cluster.api import CONFLICT, NOT_FOUND, KubernetesApi, KubernetesError
from ytrainer_core.cluster.logs import LogFollower, job_pods, last_words
from ytrainer_core.cluster.trainjob import API_VERSION, DIGEST_ANNOTATION
from ytrainer_core.errors import Cancelled, StageFailed, TimedOut

POLL_SECONDS = 3.0
"""Between two looks at the TrainJob."""

_DRAIN_SECONDS = 20.0
"""How long the last lines of a log may take after the end."""

_GONE_SECONDS = 60.0
"""How long a deleted TrainJob may take to be gone: its pods have half a minute to end."""

_CANCEL_SECONDS = 20.0
"""The same after SIGTERM, when half a minute is all that this process itself has."""

Say = Callable[[str], None]


def run_trainjob(
    api: KubernetesApi,
    manifest: Mapping[str, Any],
    *,
    say: Say,
    prepare: Callable[[], None] = lambda: None,
    look: Callable[[], None] = lambda: None,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Have a TrainJob done; returns where it is complete. Nothing of it is left afterwards.

    say: told of its state, and every line that the first node writes. prepare: called before one
    is made, not where one is gone on with. look: called again and again meanwhile.
    Raises StageFailed with each failed pod's reason, exit code and last lines, also where somebody
    deleted the TrainJob; TimedOut where its own deadline is over; Cancelled after SIGTERM;
    KubernetesError where the API refuses, or stays silent beyond its patience.
    """
    name = manifest["metadata"]["name"]
    with _sigterm() as asked:
        _create(api, manifest, say, prepare, poll_seconds)
        with _deleted_afterwards(api, name, asked, poll_seconds):
            with LogFollower(api, name, say, poll_seconds) as log:
                end = _follow(api, name, asked, say, look, poll_seconds)
                if end:
                    log.drain(_DRAIN_SECONDS)
            if end is None:
                raise Cancelled(
                    f"stopped by SIGTERM; TrainJob {name} is deleted, and its nodes write a "
                    "checkpoint before they end. The same command continues from the last one."
                )
            if end["type"] == "Failed":
                raise _failure(api, name, end)


@contextlib.contextmanager
def _deleted_afterwards(
    api: KubernetesApi, name: str, asked: threading.Event, poll_seconds: float
) -> Iterator[None]:
    """Delete the TrainJob in the end, except where the API is lost: it may well go on then."""
    try:
        yield
    except KubernetesError:
        raise
    except BaseException:
        if asked.is_set():
            api.patience = min(api.patience, _CANCEL_SECONDS)
        _delete(api, name, _CANCEL_SECONDS if asked.is_set() else _GONE_SECONDS, poll_seconds)
        raise
    else:
        _delete(api, name, _GONE_SECONDS, poll_seconds)


def owner_pod(api: KubernetesApi, pod: str) -> dict[str, Any]:
    """The ownerReference to a pod of the namespace; a pod's own name is its host's name."""
    uid = read_pod(api, pod)["metadata"]["uid"]
    return {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}


def read_pod(api: KubernetesApi, pod: str) -> dict[str, Any]:
    """A pod of the namespace as it is now."""
    return api.ask("GET", f"/api/v1/namespaces/{api.namespace}/pods/{pod}")


def _create(
    api: KubernetesApi,
    manifest: Mapping[str, Any],
    say: Say,
    prepare: Callable[[], None],
    poll_seconds: float,
) -> None:
    """Make the TrainJob, unless this very one is at work already."""
    name = manifest["metadata"]["name"]
    while True:
        found = _look(api, name)
        if found and _is_wanted(found, manifest):
            say(f"TrainJob {name}: is there already; going on with it")
            _adopt(api, found, manifest)
            return
        if found:
            say(f"TrainJob {name}: an earlier one is deleted first")
            _delete(api, name, _GONE_SECONDS, poll_seconds)
        prepare()
        try:
            api.ask("POST", _jobs_path(api), manifest)
            say(f"TrainJob {name}: created")
            return
        except KubernetesError as error:  # a conflict, where the answer to the first try was lost
            if error.status != CONFLICT:
                raise


def _adopt(api: KubernetesApi, found: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Have a TrainJob belong to this pod: with the pod that made it, it would be deleted."""
    owners = manifest["metadata"].get("ownerReferences", [])
    if found["metadata"].get("ownerReferences", []) != owners:
        path = f"{_jobs_path(api)}/{manifest['metadata']['name']}"
        api.ask("PATCH", path, {"metadata": {"ownerReferences": owners}})


def _is_wanted(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a TrainJob is the one to be made, and neither over nor going."""
    digests = [
        tree["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION) for tree in (found, manifest)
    ]
    same = digests[0] == digests[1] is not None
    return same and not _is_going(found) and _end_of(found) is None


def _is_going(found: Mapping[str, Any]) -> bool:
    """Whether a TrainJob is being deleted."""
    return "deletionTimestamp" in found["metadata"]


def _follow(
    api: KubernetesApi,
    name: str,
    asked: threading.Event,
    say: Say,
    look: Callable[[], None],
    poll_seconds: float,
) -> dict[str, Any] | None:
    """The condition with which the TrainJob ended; None where SIGTERM came before."""
    told = ""
    while not asked.is_set():
        found = _look(api, name)
        if found is None or (_is_going(found) and not _end_of(found)):
            raise StageFailed(
                f"TrainJob {name}: was deleted by somebody else. Start again: training continues "
                "from the last checkpoint."
            )
        state = _state(found)
        if state != told:
            say(f"TrainJob {name}: {state}")
            told = state
        look()
        if end := _end_of(found):
            return end
        asked.wait(poll_seconds)
    return None


def _state(found: Mapping[str, Any]) -> str:
    """The TrainJob's state as a person wants to read it."""
    if end := _end_of(found):
        return str(end["type"]).lower()
    if _condition(found, "Suspended"):
        return "waits in the queue (suspended)"
    jobs = [
        f"{job['name']} {', '.join(words)}"
        for job in found.get("status", {}).get("jobsStatus", ())
        if (words := [f"{job[word]} {word}" for word in _COUNTS if job.get(word)])
    ]
    return "; ".join(jobs) or "waits for its pods"


_COUNTS = ("active", "ready", "succeeded", "failed")


def _end_of(found: Mapping[str, Any]) -> dict[str, Any] | None:
    return _condition(found, "Complete") or _condition(found, "Failed")


def _condition(found: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    conditions = found.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _failure(api: KubernetesApi, name: str, end: Mapping[str, Any]) -> StageFailed | TimedOut:
    """The error of a failed TrainJob, with what its pods tell."""
    reason = f"TrainJob {name}: {end.get('reason') or 'failed'}: {end.get('message') or ''}"
    if end.get("reason") == "DeadlineExceeded":
        return TimedOut(
            f"{reason.rstrip(': .')}. Raise launch.node_timeout_hours; the same command "
            "continues from the last checkpoint."
        )
    with contextlib.suppress(KubernetesError):  # without its pods the failure is still one
        told = [words for pod in job_pods(api, name) if (words := last_words(api, pod))]
        return StageFailed(f"{reason.rstrip(': .')}.", *told)
    return StageFailed(f"{reason.rstrip(': .')}.")


def _look(api: KubernetesApi, name: str) -> dict[str, Any] | None:
    try:
        return api.ask("GET", f"{_jobs_path(api)}/{name}")
    except KubernetesError as error:
        if error.status != NOT_FOUND:
            raise
        return None


def _delete(api: KubernetesApi, name: str, seconds: float, poll_seconds: float) -> None:
    """Delete a TrainJob with all that belongs to it, and wait until it is gone."""
    try:
        api.ask("DELETE", f"{_jobs_path(api)}/{name}", propagationPolicy="Foreground")
    except KubernetesError as error:
        if error.status == NOT_FOUND:
            return
        raise
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _look(api, name):
        time.sleep(min(poll_seconds, 1.0))


def _jobs_path(api: KubernetesApi) -> str:
    return f"/apis/{API_VERSION}/namespaces/{api.namespace}/trainjobs"


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in place of ending this process."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
