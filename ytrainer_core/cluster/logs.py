"""What the pods of a TrainJob say: the first node's log line by line, and how a pod ended."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import Any

from ytrainer_core.cluster.api import KubernetesApi, KubernetesError
from ytrainer_core.cluster.trainjob import NODE

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_SELECTOR = "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=" + NODE
_SILENT_SECONDS = 60.0
"""Without a line after which a connection is made anew; nothing is lost by that."""

_LAST_LINES = 15
_STARTED = ("Running", "Succeeded", "Failed")
_ENDED = ("Succeeded", "Failed")

Pod = dict[str, Any]


class LogFollower:
    """A thread that passes on every line of the first node, once, also of a pod that replaces it.

    A context manager. What hinders it is told, and hinders nothing else.
    """

    def __init__(
        self, api: KubernetesApi, job: str, say: Callable[[str], None], poll_seconds: float
    ) -> None:
        self._api, self._job, self._say, self._poll = api, job, say, poll_seconds
        self._ending, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="trainjob-log", daemon=True)
        self._pod = self._last = self._trouble = ""
        self._at_last = 0

    def __enter__(self) -> LogFollower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def drain(self, seconds: float) -> None:
        """Wait for the last lines of a TrainJob that has ended."""
        self._ending.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        while not self._stopped.is_set():
            last = self._ending.is_set()
            whole = self._read()
            if last and whole:
                return
            self._stopped.wait(self._poll)

    def _read(self) -> bool:
        """Pass on what the newest first pod has to say; whether that was all of it."""
        try:
            pods = [pod for pod in job_pods(self._api, self._job) if index_of(pod) == 0]
            started = [pod for pod in pods if pod["status"].get("phase") in _STARTED]
            if not started:
                return True
            pod = max(started, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
            if pod["metadata"]["uid"] != self._pod:
                self._pod, self._last, self._at_last = pod["metadata"]["uid"], "", 0
            self._pass_on(pod)
            return pod["status"]["phase"] in _ENDED
        except (KubernetesError, OSError, http.client.HTTPException) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._say(f"TrainJob {self._job}: its log cannot be read now ({error})")
            return False

    def _pass_on(self, pod: Pod) -> None:
        """The lines since the last one; several may bear one time, so those are counted."""
        since = {"sinceTime": f"{self._last}Z"} if self._last else {}
        skip, before = self._at_last, self._last
        lines = self._api.lines(
            log_path(self._api, pod),
            seconds=_SILENT_SECONDS,
            container=NODE,
            follow="true",
            timestamps="true",
            **since,
        )
        for line in lines:
            if self._stopped.is_set():
                return
            stamp, _, text = line.partition(" ")
            time = stamp.rstrip("Z")  # fractions of any length then sort as they should
            if before and time <= before:
                # sinceTime is exact to the second: older lines of that second come again
                if time < before:
                    continue
                if skip:
                    skip -= 1
                    continue
            self._at_last = self._at_last + 1 if time == self._last else 1
            self._last = time
            self._say(text)


def job_pods(api: KubernetesApi, job: str) -> list[Pod]:
    """The pods of a TrainJob's nodes, by their index. Raises KubernetesError."""
    path = f"/api/v1/namespaces/{api.namespace}/pods"
    found = api.ask("GET", path, labelSelector=_SELECTOR.format(job))
    return sorted(found.get("items", ()), key=index_of)


def index_of(pod: Pod) -> int:
    """Which node a pod is, counted from 0."""
    return int(pod["metadata"].get("labels", {}).get(_INDEX_LABEL, 0))


def log_path(api: KubernetesApi, pod: Pod) -> str:
    """Path of a pod's log."""
    return f"/api/v1/namespaces/{api.namespace}/pods/{pod['metadata']['name']}/log"


def last_words(api: KubernetesApi, pod: Pod) -> str:
    """How a failed pod ended, with its last lines; empty where it did not fail."""
    state: dict[str, Any] = next(
        (
            status["state"].get("terminated", {})
            for status in pod["status"].get("containerStatuses", ())
            if status["name"] == NODE
        ),
        {},
    )
    code = state.get("exitCode", 0)
    if pod["status"].get("phase") != "Failed" and not code:
        return ""
    name = pod["metadata"]["name"]
    reason = state.get("reason") or pod["status"].get("reason") or "failed"
    said = f"{name} (node {index_of(pod)}): {reason}, exit code {code}"
    if reason == "OOMKilled":
        said += ", which is memory running out. Give each node more, or a smaller batch"
    try:
        lines = list(
            api.lines(
                log_path(api, pod),
                seconds=_SILENT_SECONDS,
                container=NODE,
                tailLines=str(_LAST_LINES),
            )
        )
    except (OSError, http.client.HTTPException) as error:
        lines = [f"(its log cannot be read: {error})"]
    return "\n".join([f"{said}. Its last lines:", *(f"    {line}" for line in lines)])
