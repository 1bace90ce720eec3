"""The part of a Kubernetes API that a launcher needs: TrainJobs, pods and their logs, over HTTP.

What is posted must satisfy the published schema, and so does what is served. Each look at a
TrainJob shows the next of its scenes; the last one stays.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ytrainer_core.cluster.trainjob import schema_faults

NAMESPACE = "team"
_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_TIME = "2026-01-01T00:00:00Z"

Tree = dict[str, Any]


def condition(kind: str, reason: str = "", message: str = "") -> Tree:
    """A TrainJob's status with one condition."""
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message,
                            "lastTransitionTime": _TIME}]}  # fmt: skip


def counts(**given: int) -> Tree:
    """A TrainJob's status with so many pods in each state."""
    zero = dict.fromkeys(("ready", "succeeded", "failed", "active", "suspended"), 0)
    return {"jobsStatus": [{"name": "node", **zero, **given}]}


COMPLETE = condition("Complete", "AllJobsCompleted", "jobset completed successfully")


class Cluster:
    """What the stub holds.

    scenes: the statuses that a TrainJob made here goes through; a callable is called, and what it
    returns is the status. refusals: statuses of the next answers in place of real ones. on_delete:
    called where a TrainJob is deleted, before it is gone.
    """

    def __init__(self) -> None:
        self.scenes: list[Tree | Callable[[], Tree]] = [COMPLETE]
        self.jobs: dict[str, Tree] = {}
        self.pods: dict[str, Tree] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.refusals: list[int] = []
        self.token = ""
        self.lose_answer_to_post = False
        self.cut_logs_after = 0
        self.slow_to_delete = 0
        self.on_delete: Callable[[], None] = lambda: None
        self.made = 0
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def add_pod(
        self,
        name: str,
        index: int,
        *,
        job: str = "train",
        phase: str = "Running",
        created: str = _TIME,
        ended: Tree | None = None,
        log: list[tuple[str, str]] | None = None,
    ) -> None:
        """A pod of the TrainJob; ended: how its container terminated."""
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        state = {"terminated": ended} if ended else {"running": {}}
        self.pods[name] = {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels,
                         "creationTimestamp": created},
            "status": {"phase": phase, "containerStatuses": [{"name": "node", "state": state}]},
        }  # fmt: skip
        self.logs[name] = log or []

    def answer(self, method: str, path: str, query: dict[str, str], body: Tree) -> tuple[int, Any]:
        """(HTTP status, tree or lines of a log)."""
        if method == "POST" and path == _JOBS:
            return self._make(body)
        name = path.removeprefix(f"{_JOBS}/")
        if method == "GET" and path == _PODS:
            return 200, {"items": self._selected(query["labelSelector"])}
        if path.startswith(f"{_PODS}/"):
            return self._pod(path.removeprefix(f"{_PODS}/"), query)
        if name not in self.jobs:
            return 404, {"message": f'trainjobs.trainer.kubeflow.org "{name}" not found'}
        if method == "DELETE":
            assert query == {"propagationPolicy": "Foreground"}
            return self._delete(name)
        job = self.jobs[name]
        if method == "PATCH":
            job["metadata"] |= body["metadata"]
            return 200, self._shown(job)
        if "deletionTimestamp" in job["metadata"]:
            self.slow_to_delete -= 1
            if self.slow_to_delete < 0:
                del self.jobs[name]
                return 404, {"message": "not found"}
        elif scenes := job["scenes"]:
            scene = scenes[0] if len(scenes) == 1 else scenes.pop(0)
            job["status"] = scene() if callable(scene) else scene
        return 200, self._shown(job)

    def _make(self, body: Tree) -> tuple[int, Any]:
        faults = schema_faults(body)
        if faults:
            return 422, {"message": "; ".join(faults)}
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": f'trainjobs.trainer.kubeflow.org "{name}" already exists'}
        self.made += 1
        job = json.loads(json.dumps(body)) | {"scenes": list(self.scenes)}
        job["metadata"] |= {"uid": f"uid-{self.made}", "creationTimestamp": _TIME}
        self.jobs[name] = job
        return 201, self._shown(job)

    def _delete(self, name: str) -> tuple[int, Any]:
        self.on_delete()
        if self.slow_to_delete:
            self.jobs[name]["metadata"]["deletionTimestamp"] = _TIME
        else:
            del self.jobs[name]
        return 200, {"status": "Success"}

    def _shown(self, job: Tree) -> Tree:
        shown = {key: value for key, value in job.items() if key != "scenes"}
        assert schema_faults(shown) == []
        return shown

    def _selected(self, selector: str) -> list[Tree]:
        wanted = dict(part.split("=") for part in selector.split(","))
        pods = self.pods.values()
        return [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]

    def _pod(self, rest: str, query: dict[str, str]) -> tuple[int, Any]:
        name, _, what = rest.partition("/")
        if name not in self.pods:
            return 404, {"message": f'pods "{name}" not found'}
        if what != "log":
            return 200, self.pods[name]
        assert query["container"] == "node"
        since = query.get("sinceTime", "")[:19]  # exact to the second
        lines = [(time, text) for time, text in self.logs[name] if time[:19] >= since]
        if "tailLines" in query:
            lines = lines[-int(query["tailLines"]) :]
        if self.cut_logs_after and "follow" in query:
            lines = lines[: self.cut_logs_after]
        stamped = "timestamps" in query
        return 200, [f"{time} {text}" if stamped else text for time, text in lines]


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """URL of a server for a cluster."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def _do(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            with cluster.lock:
                cluster.requests.append(f"{self.command} {url.path}")
                status, answer = self._status(url.path, query, body)
            if status == 0:  # the answer is lost on its way
                self.close_connection = True
                return
            lines = isinstance(answer, list)
            text = "".join(f"{line}\n" for line in answer) if lines else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def _status(self, path: str, query: dict[str, str], body: Tree) -> tuple[int, Any]:
            if cluster.refusals:
                refused = cluster.refusals.pop(0)
                return refused, {"kind": "Status", "message": f"refused with {refused}"}
            if cluster.token and self.headers.get("Authorization") != f"Bearer {cluster.token}":
                return 401, {"kind": "Status", "message": "Unauthorized"}
            status, answer = cluster.answer(self.command, path, query, body)
            if self.command == "POST" and cluster.lose_answer_to_post:
                cluster.lose_answer_to_post = False
                return 0, None
            return status, answer

        do_GET = do_POST = do_PATCH = do_DELETE = _do

    server = ThreadingTCPServer(("127.0.0.1", 0), Handler)  # an HTTPServer asks for its name
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
