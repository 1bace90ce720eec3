"""MLflow may go away in the middle of a run: no record is lost then, and none is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Server
from wire import Wire

from ytrainer_core import tracking
from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.tracking import open_run, opening, run, sender
from ytrainer_core.tracking.journal import journals

pytestmark = pytest.mark.timeout(600)  # MLflow's server takes long to start on a busy machine
WORKER = Path(__file__).with_name("training_worker.py")
STEP_SECONDS = 0.05
OUTAGE_SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own repetitions would only make the outages longer than they are."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sender, "_FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(sender, "_LONGEST_PAUSE_SECONDS", 0.2)


class Training:
    """A training_worker process."""

    def __init__(self, uri: str, experiment: str, cwd: Path, key: str = "k", first: int = 0):
        words = [uri, experiment, key, str(first), str(STEP_SECONDS)]
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=cwd,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.run_id = self.process.stdout.readline().strip()
        assert self.run_id, self.process.communicate()[1]
        self.step = first - 1
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.step = int(line)

    def until(self, step: int) -> None:
        """Wait until it has logged a step."""
        while self.step < step:
            assert self.process.poll() is None, self.process.stderr
            time.sleep(STEP_SECONDS)

    def stop(self) -> str:
        """Let it end in order; what it said to stderr."""
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.write("stop\n")
        self.process.stdin.flush()
        said = self.process.stderr.read()
        assert self.process.wait() == 0, said
        self._reader.join()
        return said

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


def told(client: Any, run_id: str) -> list[tuple[int, float, float]]:
    """(step, loss, step_twice) as MLflow has them, in its order."""
    loss = client.get_metric_history(run_id, "loss")
    twice = client.get_metric_history(run_id, "step_twice")
    return [(a.step, a.value, b.value) for a, b in zip(loss, twice, strict=True)]


def expected(last: int) -> list[tuple[int, float, float]]:
    return [(step, 1.0 / (step + 1), 2.0 * step) for step in range(last + 1)]


def config_of(uri: str, request: pytest.FixtureRequest) -> StageConfig:
    return StageConfig(tracking=TrackingConfig(uri=uri, experiment=request.node.name))


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of outage and three starts of MLflow, on a busy machine
def test_a_server_killed_for_a_minute_in_the_middle_of_a_run_misses_nothing(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    training = Training(server.uri, request.node.name, tmp_path)
    training.until(40)
    server.kill()
    away = time.time() * 1000
    time.sleep(OUTAGE_SECONDS)
    back = time.time() * 1000
    server.start()
    training.until(training.step + 40)
    warnings = training.stop()
    client = tracking.connect(TrackingConfig(uri=server.uri))
    assert told(client, training.run_id) == expected(training.step)
    history = client.get_metric_history(training.run_id, "loss")
    assert sum(away < metric.timestamp < back for metric in history) > 100  # the training went on
    ended = client.get_run(training.run_id)
    assert ended.info.status == "FINISHED"
    assert client.list_artifacts(training.run_id, "reports")
    assert warnings.count("not recorded yet") == 1
    assert not list(journals().glob("*/records.jsonl"))


def test_what_a_killed_process_could_not_tell_is_delivered_by_the_next_and_its_run_continued(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    training = Training(server.uri, request.node.name, tmp_path)
    training.until(20)
    server.kill()
    training.until(60)
    training.kill()
    server.start()
    config = config_of(server.uri, request)
    with open_run("validate", config) as other:
        pass
    client = tracking.connect(config.tracking)
    rows = told(client, training.run_id)
    assert rows == expected(len(rows) - 1)
    assert len(rows) > training.step  # it may have died between recording a step and saying so
    dead = client.get_run(training.run_id)
    assert dead.info.status == "KILLED"
    assert "vanished" in dead.data.tags["ytrainer.error"]
    assert dead.data.params["tracking.experiment"] == request.node.name
    assert [file.path for file in client.list_artifacts(training.run_id, "reports")]
    assert client.get_run(other.run_id).info.status == "FINISHED"
    again = Training(server.uri, request.node.name, tmp_path, first=len(rows))
    assert again.run_id == training.run_id
    again.until(len(rows) + 20)
    again.stop()
    assert told(client, training.run_id) == expected(again.step)
    assert client.get_run(training.run_id).info.status == "FINISHED"


def test_a_server_that_answers_500_for_a_while_gets_every_record_once(
    wire: Wire, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    training = Training(wire.uri, request.node.name, tmp_path)
    training.until(20)
    wire.mode = "500"
    training.until(80)
    assert wire.refused
    wire.mode = "good"
    training.stop()
    client = tracking.connect(TrackingConfig(uri=wire.uri))
    assert told(client, training.run_id) == expected(training.step)
    assert client.get_run(training.run_id).info.status == "FINISHED"


def test_requests_whose_answers_are_lost_are_repeated_and_nothing_is_there_twice(
    wire: Wire, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    training = Training(wire.uri, request.node.name, tmp_path)
    training.until(10)
    wire.mode = "lost"
    while wire.lost < 3:
        training.until(training.step + 10)
    wire.mode = "good"
    training.stop()
    client = tracking.connect(TrackingConfig(uri=wire.uri))
    assert told(client, training.run_id) == expected(training.step)
    files = client.list_artifacts(training.run_id, "reports") if training.step >= 40 else []
    assert len(files) == (training.step >= 40)


def test_a_run_whose_making_lost_its_answer_is_there_once(
    wire: Wire, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    config = config_of(wire.uri, request)
    client = tracking.connect(config.tracking)
    experiment = tracking.experiment_id(client, config.tracking)
    create = type(client).create_run

    def create_badly(*arguments: Any, **options: Any) -> Any:
        create(*arguments, **options)  # the server made it, and nobody heard
        return create(*arguments, **options)

    monkeypatch.setattr(type(client), "create_run", create_badly)
    with open_run("sft", config) as made:
        pass
    assert [found.info.run_id for found in client.search_runs([experiment])] == [made.run_id]


def test_a_server_that_hangs_keeps_nobody_waiting(
    server: Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = config_of(server.uri, request)
    page = tmp_path / "page.html"
    page.write_text("<p>")
    with open_run("sft", config) as made:
        server.signal(signal.SIGSTOP)
        try:
            for step in range(200):
                made.log({"loss": 1.0 / (step + 1), "step_twice": 2.0 * step}, step)
            made.artifact(page)
        finally:
            server.signal(signal.SIGCONT)
    client = tracking.connect(config.tracking)
    assert told(client, made.run_id) == expected(199)
    assert [file.path for file in client.list_artifacts(made.run_id)] == ["page.html"]


def test_a_run_that_ends_while_the_server_is_away_is_delivered_by_the_next_command(
    server: Server,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "_PATIENCE_SECONDS", 1.0)
    config = config_of(server.uri, request)
    with open_run("sft", config) as made:
        made.log({"loss": 1.0, "step_twice": 0.0}, 0)
        server.kill()
        made.log({"loss": 0.5, "step_twice": 2.0}, 1)
        made.tag("verdict", "good")
    ended = time.time() * 1000
    (kept,) = journals().glob(f"{made.run_id}.*")
    assert str(kept) in caplog.text and "ytrainer registry list" in caplog.text
    server.start()
    client = tracking.connect(config.tracking)  # as `ytrainer registry list` does
    assert told(client, made.run_id) == expected(1)
    found = client.get_run(made.run_id)
    assert found.info.status == "FINISHED" and found.info.end_time <= ended
    assert found.data.tags["verdict"] == "good"
    assert not kept.exists()


def test_a_server_that_comes_up_while_a_run_starts_is_waited_for(
    server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_START_SECONDS", 120.0)
    monkeypatch.setattr(opening, "_START_PAUSE_SECONDS", 0.0)
    config = config_of(server.uri, request)
    server.kill()
    connect, attempts = opening.connect, []

    def counted(where: TrackingConfig) -> Any:
        attempts.append(1)
        if len(attempts) == 3:
            server.start()
        return connect(where)

    monkeypatch.setattr(opening, "connect", counted)
    with open_run("sft", config) as made:
        pass
    assert len(attempts) >= 3
    client = connect(config.tracking)
    assert client.get_run(made.run_id).info.status == "FINISHED"
