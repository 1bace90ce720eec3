"""What waits for MLflow: written whole, delivered once, by one process, and never in the way."""

from __future__ import annotations

import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import tracking
from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.files import home
from ytrainer_core.tracking import MlflowRun, delivery, open_run, process
from ytrainer_core.tracking.delivery import Delivery
from ytrainer_core.tracking.journal import Journal, abandoned, journals

A_WORKER_THAT_OUTLIVES_ITS_PARENT = """
import os, signal, time
from ytrainer_core.tracking.journal import Journal
journal = Journal.create({"run_id": "r", "store": "s", "process": {}})
journal.append("tag", name="a", value="b")
read, write = os.pipe()
if not os.fork():
    os.write(write, b"alive")
    time.sleep(60)
    os._exit(0)
os.read(read, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, which takes seconds to make and none to copy."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking.connect(TrackingConfig(uri=f"sqlite:///{file}"))
    return file


@pytest.fixture
def client(new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    home().mkdir()
    shutil.copyfile(new_store, home() / "mlflow.db")
    return tracking.connect(TrackingConfig())


@pytest.fixture
def config(request: pytest.FixtureRequest) -> StageConfig:
    return StageConfig(tracking=TrackingConfig(experiment=request.node.name[:100]))


def new_journal(run_id: str = "r", store: str = "s", **tags: str) -> Journal:
    return Journal.create({"run_id": run_id, "store": store, "process": tags})


def reopened() -> Journal:
    (journal,) = abandoned(journals(), "s")
    return journal


def values(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_records_come_in_their_order_and_go_when_they_are_delivered() -> None:
    journal = new_journal()
    journal.append("tag", name="a", value="ä")
    records, end = journal.pending()
    journal.append("tag", name="b", value="\ud800")
    assert records == [{"kind": "tag", "name": "a", "value": "ä"}]
    journal.delivered(records, end)
    records, end = journal.pending()
    assert [record["name"] for record in records] == ["b"]
    journal.delivered(records, end)
    assert journal.pending() == ([], 0)
    assert (journal.folder / "records.jsonl").stat().st_size == 0
    journal.append("tag", name="c", value="")  # as long as an earlier one, at the same place
    assert [record["name"] for record in journal.pending()[0]] == ["c"]


def test_records_longer_than_a_portion_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ytrainer_core.tracking.journal._READ_BYTES", 50)
    journal = new_journal()
    texts = ["a", "x" * 500, "b", "c", "d", "e"]
    for text in texts:
        journal.append("tag", name="a", value=text)
    seen: list[list[str]] = []
    while (portion := journal.pending())[0]:
        seen.append([record["value"] for record in portion[0]])
        journal.delivered(*portion)
    assert [text for portion in seen for text in portion] == texts
    assert len(seen) > 1


def test_a_line_that_a_power_cut_tore_is_left_out() -> None:
    journal = new_journal()
    journal.append("tag", name="a", value="1")
    with (journal.folder / "records.jsonl").open("a") as file:
        file.write('\0\0\0\n{"kind": "ta')
    assert [record["value"] for record in journal.pending()[0]] == ["1"]
    journal.delivered(*journal.pending())
    assert journal.close()
    assert not journal.folder.exists()


def test_a_record_that_the_disk_has_no_room_for_leaves_the_others_readable() -> None:
    journal = new_journal()
    journal.append("tag", name="a", value="1")
    room = (journal.folder / "records.jsonl").stat().st_size + 10
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            journal.append("tag", name="b", value="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.append("tag", name="c", value="2")
    assert [record["name"] for record in journal.pending()[0]] == ["a", "c"]


def test_a_journal_is_nobodys_left_over_while_its_process_has_it() -> None:
    journal = new_journal()
    journal.append("tag", name="a", value="1")
    new_journal(store="another").close()
    assert list(abandoned(journals(), "s")) == []
    assert not journal.close()  # something is left
    left = reopened()
    assert left.folder == journal.folder
    assert [record["name"] for record in left.pending()[0]] == ["a"]


def test_a_forked_worker_does_not_hold_the_journal_of_its_dead_parent() -> None:
    command = [sys.executable, "-c", A_WORKER_THAT_OUTLIVES_ITS_PARENT]
    parent = subprocess.Popen(command, start_new_session=True)
    try:
        assert parent.wait(60) == -signal.SIGKILL
        assert [record["name"] for record in reopened().pending()[0]] == ["a"]
        os.killpg(parent.pid, 0)  # the worker lives
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def test_a_folder_that_its_process_did_not_finish_making_is_removed() -> None:
    new_journal().close()
    (journals() / "r.half").mkdir()
    assert list(abandoned(journals(), "s")) == []
    assert [path.name for path in journals().iterdir()] == [".lock"]


def test_records_delivered_twice_are_recorded_once(client: Any, config: StageConfig) -> None:
    experiment = tracking.experiment_id(client, config.tracking)
    run_id = client.create_run(experiment, tags=process.process_tags()).info.run_id
    for _ in range(2):
        journal = new_journal(run_id, **process.process_tags())
        for step, value in enumerate([1.5, math.nan, math.inf, 1.5]):
            journal.append("metrics", time=1000 + step, step=step, values={"loss": value})
        journal.append("params", values={"rank": "8"})
        journal.append("params", values={"rank": "8", "seed": "1"})
        dataset = {"name": "d", "digest": "ab", "source_type": "local", "source": "{}"}
        journal.append("dataset", dataset=dataset, tags={"mlflow.data.context": "training"})
        journal.append("status", status="FINISHED", time=5000)
        Delivery(client, journal, pytest.fail).deliver()
        assert journal.close()
    found = client.get_run(run_id)
    history = values(client, run_id, "loss")
    assert [step for step, _ in history] == [0, 1, 2, 3]
    assert history[0][1] == history[3][1] == 1.5
    assert math.isnan(history[1][1]) and history[2][1] > 1e300
    assert found.data.params == {"rank": "8", "seed": "1"}
    assert len(found.inputs.dataset_inputs) == 1
    assert (found.info.status, found.info.end_time) == ("FINISHED", 5000)


def test_the_store_refuses_one_value_and_gets_the_others(
    client: Any, config: StageConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run("sft", config) as run:
        run.log({"a": 1.0, "b" * 300: 2.0, "c": 3.0}, 1)
        run.params({"d": "\0", "e" * 300: 1, "f": "\ud800"})
        run.tag("g" * 300, "h")
        run.tag("i", "j")
    found = client.get_run(run.run_id)
    assert found.data.metrics == {"a": 1.0, "c": 3.0}
    assert (found.data.params["d"], found.data.params["f"]) == ("\\x00", "\\ud800")
    assert found.data.tags["i"] == "j"
    assert found.info.status == "FINISHED"
    for name in ("metric " + "b" * 300, "parameter " + "e" * 300, "tag " + "g" * 300):
        assert f"{name} not recorded" in caplog.text


def test_an_artifact_store_that_fails_costs_a_warning_and_nothing_else(
    client: Any,
    config: StageConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(delivery, "_ARTIFACT_PAUSE_SECONDS", 0.0)
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    client.create_experiment(config.tracking.experiment, artifact_location=f"{no_folder}/below")
    with open_run("sft", config) as run:
        run.artifact(no_folder)
        run.artifact(tmp_path / "missing.html")
        run.log({"loss": 1.0}, 1)
    assert values(client, run.run_id, "loss") == [(1, 1.0)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert caplog.text.count("artifacts not recorded") == 1


def test_a_run_that_another_process_has_continued_is_not_ended_by_left_overs(
    client: Any, config: StageConfig
) -> None:
    store = tracking.store_name(config.tracking)
    with open_run("sft", config) as run:
        run.log({"loss": 2.0}, 2)
        dead = new_journal(run.run_id, store, **{tracking.PID_TAG: "1"})
        dead.append("metrics", time=1000, step=1, values={"loss": 1.0})
        dead.append("status", status="FAILED", time=2000)
        dead.close()
        tracking.connect(config.tracking)
        assert client.get_run(run.run_id).info.status == "RUNNING"
    assert values(client, run.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_left_overs_of_a_run_that_is_not_there_stay_and_are_named(
    config: StageConfig, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dead = new_journal("0" * 32, tracking.store_name(config.tracking))
    dead.append("metrics", time=1000, step=1, values={"loss": 1.0})
    dead.close()
    tracking.connect(config.tracking)
    assert str(dead.folder) in caplog.text and "tries again" in caplog.text
    assert (dead.folder / "records.jsonl").stat().st_size > 0


def test_a_run_whose_home_cannot_be_written_is_recorded_all_the_same(
    client: Any, config: StageConfig, caplog: pytest.LogCaptureFixture
) -> None:
    journals().write_text("not a folder")
    with open_run("sft", config) as run:
        run.log({"loss": 1.0}, 1)
    assert values(client, run.run_id, "loss") == [(1, 1.0)]
    assert "YTRAINER_HOME failed" in caplog.text


class BrokenClient:
    """A store that answers nothing, ever."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("gone, http://me:secret@host")

        return fail


def test_an_outage_is_said_once_and_what_is_said_after_the_end_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ytrainer_core.tracking.run._PATIENCE_SECONDS", 0.1)
    run = MlflowRun(BrokenClient(), "r", "s", {})
    for step in range(100):
        run.log({"loss": 1.0}, step)
    run.end("FINISHED")
    run.log({"loss": 1.0}, 100)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    said = [record.getMessage() for record in caplog.records]
    assert "not recorded yet (ConnectionError: gone, http://host)" in said[0]
    assert "lies in" in said[1] and "the run has ended" in said[2]
    assert [r["step"] for r in reopened().pending()[0] if r["kind"] == "metrics"] == [*range(100)]


def test_the_store_of_a_journal_is_named_without_a_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        tracking.store_name(TrackingConfig(uri=uri))
        for uri in ("http://me:secret@host:5000/", "sqlite:///here.db")
    ]
    assert names == ["http://host:5000", f"sqlite:///{tmp_path}/here.db"]
