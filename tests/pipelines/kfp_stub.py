"""A Kubeflow Pipelines API over HTTP that answers in the published models and fails on request.

Answers are made of the classes that kfp_server_api was generated with from the published OpenAPI,
and requests are refused where they hold a field that those classes do not know.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as api

STEPS = ("validate", "score", "order", "sft", "evaluate", "register", "promote")
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_AS_JSON = api.ApiClient().sanitize_for_serialization


@dataclass
class Fault:
    """What goes wrong for the next `times` requests that match. before: nothing was done then."""

    match: str
    times: int = 1
    status: int = 0
    """Answer with this status; 0 cuts the connection."""
    before: bool = True
    body: str = '{"error": "made to fail", "code": 13}'
    kind: str = "application/json"


@dataclass
class Request:
    method: str
    path: str
    authorization: str


@dataclass
class Stub:
    """The server's state. states: what a run's state is at each look, the last one for ever.

    finish: called once when a run is over, as its steps would have worked until then.
    watch: called with every request before it is looked at.
    tokens: those that are accepted; empty asks for none.
    """

    url: str = ""
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    finish: Callable[[Any], None] = lambda run: None
    watch: Callable[[Request], None] = lambda asked: None
    failing: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def count(self, method: str, pattern: str) -> int:
        """How often a request was made."""
        return sum(
            request.method == method and re.search(pattern, request.path) is not None
            for request in self.requests
        )

    def tags_of(self, run: Any) -> dict[str, str]:
        """The tags that the run's config asks for."""
        pairs = run.runtime_config.parameters["config"]["registry"]["tags"]
        return dict(pair.split("=", 1) for pair in pairs)

    # --- answers ---------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        """A model, or a Refusal raised."""
        for verb, pattern, handler in _ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                return handler(self, *found.groups(), query=query, body=body)
        raise Refusal(404, f"{method} {path}")

    def list_pipelines(self, query: dict[str, str], body: bytes) -> Any:
        return api.V2beta1ListPipelinesResponse(pipelines=_filtered(self.pipelines, query))

    def create_pipeline(self, query: dict[str, str], body: bytes) -> Any:
        made = _parsed(body, "V2beta1Pipeline")
        _refuse_twin(self.pipelines, made.display_name)
        made.pipeline_id = f"pipeline-{len(self.pipelines) + 1}"
        made.created_at = datetime.now(UTC)
        self.pipelines[made.pipeline_id] = made
        return made

    def list_versions(self, pipeline_id: str, query: dict[str, str], body: bytes) -> Any:
        own = {key: each for key, each in self.versions.items() if each.pipeline_id == pipeline_id}
        return api.V2beta1ListPipelineVersionsResponse(pipeline_versions=_filtered(own, query))

    def upload_version(self, query: dict[str, str], body: bytes) -> Any:
        if query["pipelineid"] not in self.pipelines:
            raise Refusal(404, "no such pipeline")
        _refuse_twin(self.versions, query["name"])
        made = api.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"],
            pipeline_version_id=f"version-{len(self.versions) + 1}",
            name=query["name"],
            display_name=query.get("display_name", query["name"]),
        )
        self.versions[made.pipeline_version_id] = made
        self.uploads[query["name"]] = body
        return made

    def list_experiments(self, query: dict[str, str], body: bytes) -> Any:
        return api.V2beta1ListExperimentsResponse(experiments=_filtered(self.experiments, query))

    def create_experiment(self, query: dict[str, str], body: bytes) -> Any:
        made = _parsed(body, "V2beta1Experiment")
        made.experiment_id = f"experiment-{len(self.experiments) + 1}"
        self.experiments[made.experiment_id] = made
        return made

    def list_runs(self, query: dict[str, str], body: bytes) -> Any:
        return api.V2beta1ListRunsResponse(runs=_filtered(self.runs, query))

    def create_run(self, query: dict[str, str], body: bytes) -> Any:
        made = _parsed(body, "V2beta1Run")
        if made.pipeline_version_reference.pipeline_version_id not in self.versions:
            raise Refusal(404, "no such pipeline version")
        made.run_id = f"run-{len(self.runs) + 1}"
        made.created_at = datetime.now(UTC)
        made.state = "PENDING"
        self.runs[made.run_id] = made
        return made

    def get_run(self, run_id: str, query: dict[str, str], body: bytes) -> Any:
        run = self._known(run_id)
        if run.state not in OVER:
            look = self.looks[run_id] = self.looks.get(run_id, -1) + 1
            if run.state == "CANCELING":
                run.state = "CANCELED"
            else:
                run.state = self.states[min(look, len(self.states) - 1)]
            if run.state in OVER:
                self.finish(run)
        run.run_details = api.V2beta1RunDetails(task_details=self._details(run))
        if run.state == "FAILED":
            run.error = api.GoogleRpcStatus(code=2, message="the workflow failed")
        return run

    def terminate(self, run_id: str, query: dict[str, str], body: bytes) -> Any:
        run = self._known(run_id)
        if run.state in OVER:
            raise Refusal(400, "the run is over")
        run.state = "CANCELING"
        return {}

    def _known(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refusal(404, f"Run {run_id} not found")
        return self.runs[run_id]

    def _details(self, run: Any) -> list[Any]:
        details = [api.V2beta1PipelineTaskDetail(display_name="root", state=run.state)]
        for step in STEPS:
            state = "FAILED" if step in self.failing else run.state
            error = api.GoogleRpcStatus(code=2, message=self.failing.get(step))
            details += [
                api.V2beta1PipelineTaskDetail(display_name=f"{step}-driver", state=state),
                api.V2beta1PipelineTaskDetail(
                    display_name=step,
                    task_id=step,
                    run_id=run.run_id,
                    state=state,
                    error=error if step in self.failing else None,
                    start_time=datetime.now(UTC),
                ),
            ]
        return details


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


_V2 = "/apis/v2beta1"
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", f"{_V2}/pipelines", Stub.list_pipelines),
    ("POST", f"{_V2}/pipelines", Stub.create_pipeline),
    ("POST", f"{_V2}/pipelines/upload_version", Stub.upload_version),
    ("GET", f"{_V2}/pipelines/([^/]+)/versions", Stub.list_versions),
    ("GET", f"{_V2}/experiments", Stub.list_experiments),
    ("POST", f"{_V2}/experiments", Stub.create_experiment),
    ("GET", f"{_V2}/runs", Stub.list_runs),
    ("POST", f"{_V2}/runs", Stub.create_run),
    ("POST", f"{_V2}/runs/([^/:]+):terminate", Stub.terminate),
    ("GET", f"{_V2}/runs/([^/:]+)", Stub.get_run),
]


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve a stub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            where = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(where.query).items()}
            asked = Request(
                self.command, unquote(where.path), self.headers.get("authorization", "")
            )
            with stub.lock:
                stub.requests.append(asked)
                stub.watch(asked)
                fault = _due(stub, asked)
                if fault and fault.before:
                    return self._fail(fault)
                try:
                    _check_token(stub, asked)
                    made = stub.answer(asked.method, asked.path, query, body)
                    status, text = 200, json.dumps(_AS_JSON(made))
                except Refusal as refusal:
                    status, text = refusal.status, json.dumps({"error": str(refusal), "code": 5})
                if fault:
                    return self._fail(fault)
                self._send(status, text, "application/json")

        def _fail(self, fault: Fault) -> None:
            if fault.status:
                self._send(fault.status, fault.body, fault.kind)
            else:
                self.close_connection = True
                self.connection.close()

        def _send(self, status: int, text: str, kind: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _due(stub: Stub, asked: Request) -> Fault | None:
    for fault in stub.faults:
        if fault.times and re.search(fault.match, f"{asked.method} {asked.path}"):
            fault.times -= 1
            return fault
    return None


def _check_token(stub: Stub, asked: Request) -> None:
    given = asked.authorization.removeprefix("Bearer ")
    if stub.tokens and given not in stub.tokens:
        raise Refusal(401, f"token '{given}' is not accepted")


def _filtered(things: dict[str, Any], query: dict[str, str]) -> list[Any]:
    """Newest first, those that the filter's one predicate wants."""
    found = list(reversed(list(things.values())))
    if "filter" not in query:
        return found
    (predicate,) = json.loads(query["filter"])["predicates"]
    assert set(predicate) == {"operation", "key", "stringValue"} and predicate["operation"] == 1
    return [each for each in found if getattr(each, predicate["key"]) == predicate["stringValue"]]


def _refuse_twin(things: dict[str, Any], name: str) -> None:
    if any(each.display_name == name for each in things.values()):
        raise Refusal(409, f"{name} exists")


def _parsed(body: bytes, model: str) -> Any:
    """A request's body as the published model; one with other fields is refused."""
    tree = json.loads(body)
    known = set(getattr(api, model).attribute_map.values())
    if unknown := set(tree) - known:
        raise Refusal(400, f"unknown fields: {', '.join(sorted(unknown))}")

    class Response:
        data = body

    return api.ApiClient().deserialize(Response, model)
