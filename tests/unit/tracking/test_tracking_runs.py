"""What a run promises: found where it belongs, closed with the truth, never in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from ytrainer_core import tracking
from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.errors import DataError, YTrainerError
from ytrainer_core.files import home
from ytrainer_core.tracking import (
    NullRun,
    leftovers,
    open_pipeline_run,
    open_run,
    opening,
    sweep_dead_runs,
)

OPEN_A_RUN_AND_DIE = """
import os, signal, sys
from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.tracking import open_run
config = StageConfig(tracking=TrackingConfig(experiment=sys.argv[1]))
with open_run("sft", config, key="k1") as run:
    run.log({"loss": 1.0}, step=5)
    print(run.run_id, flush=True)
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the whole module, and no MLflow variables from outside."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("MLFLOW_") or name == tracking.PARENT_RUN_VARIABLE:
                patch.delenv(name)
        patch.setenv("YTRAINER_HOME", str(folder / "home"))
        yield folder


@pytest.fixture
def config(request: pytest.FixtureRequest) -> StageConfig:
    """Every test has an experiment of its own."""
    return StageConfig(tracking=TrackingConfig(experiment=request.node.name))


@pytest.fixture
def client() -> Any:
    return tracking.connect(TrackingConfig())


def start(config: StageConfig, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN_A_RUN_AND_DIE, config.tracking.experiment, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )


def test_the_uri_is_the_configs_then_the_environments_then_a_file_in_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tracking.tracking_uri(TrackingConfig()) == f"sqlite:///{home()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.tracking_uri(TrackingConfig()) == "http://server:5000"
    assert tracking.tracking_uri(TrackingConfig(uri="http://mine")) == "http://mine"


def test_everything_lies_below_home_and_nothing_in_the_current_folder(
    config: StageConfig, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = home() / "report.html"
    report.write_text("<p>")
    with open_run("validate", config) as run:
        run.artifact(report, "reports")
    info = client.get_run(run.run_id).info
    stored = home() / "mlartifacts" / run.run_id / "artifacts"
    assert info.artifact_uri == str(stored)
    assert (stored / "reports" / "report.html").read_text() == "<p>"
    assert list(tmp_path.iterdir()) == []


def test_metrics_keep_their_steps_and_non_finite_values(config: StageConfig, client: Any) -> None:
    with open_run("sft", config) as run:
        run.log({"loss": 2.5, "grad norm@1": 1.0}, step=10)
        run.log({"loss": float("nan")}, step=20)
    history = client.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in history][:1] == [(10, 2.5)]
    assert history[1].step == 20 and history[1].value != history[1].value
    assert client.get_run(run.run_id).data.metrics["grad norm_1"] == 1.0


def test_the_config_is_recorded_flat_and_cut(client: Any) -> None:
    config = StageConfig(tracking=TrackingConfig(experiment="params"), seed=7)
    with open_run("sft", config) as run:
        run.params({"lora": {"rank": 8}, "long": "x" * 9000, "list": [1, 2]})
    params = client.get_run(run.run_id).data.params
    assert params["seed"] == "7"
    assert params["tracking.experiment"] == "params"
    assert params["lora"] == '{"rank": 8}'
    assert params["long"] == "x" * 6000
    assert params["list"] == "[1, 2]"


def test_a_changed_parameter_is_named_and_the_others_are_kept(
    config: StageConfig, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run("sft", config) as run:
        run.params({"rows": 10})
        run.params({"rows": 11, "tokens": 5})
    params = client.get_run(run.run_id).data.params
    assert (params["rows"], params["tokens"]) == ("10", "5")
    assert "parameter rows" in caplog.text


def test_a_data_set_is_recorded_with_its_sha256_and_path(config: StageConfig, client: Any) -> None:
    with open_run("sft", config) as run:
        run.dataset("train", "corpus/a.jsonl", "ab" * 32, "training")
        run.dataset("general", "s3://bucket/b.jsonl", "cd" * 32, "evaluation")
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    found = {item.dataset.name: item for item in inputs}
    tags = {tag.key: tag.value for tag in found["train"].tags}
    assert tags == {"mlflow.data.context": "training", "sha256": "ab" * 32}
    assert json.loads(found["train"].dataset.source)["uri"] == str(
        Path("corpus/a.jsonl").absolute()
    )
    assert found["general"].dataset.source_type == "s3"
    assert json.loads(found["general"].dataset.source)["uri"] == "s3://bucket/b.jsonl"


def test_a_stage_is_nested_below_the_pipeline_that_exports_its_run(
    config: StageConfig, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pipeline_run("finetune", config) as pipeline:
        pass
    monkeypatch.setenv(tracking.PARENT_RUN_VARIABLE, pipeline.run_id)
    with open_run("sft", config) as stage:
        pass
    tags = client.get_run(stage.run_id).data.tags
    assert tags["mlflow.parentRunId"] == pipeline.run_id
    assert tags["mlflow.runName"] == "sft"
    assert "mlflow.parentRunId" not in client.get_run(pipeline.run_id).data.tags


def test_a_run_opened_inside_another_is_nested_below_it(config: StageConfig, client: Any) -> None:
    with open_pipeline_run("finetune", config) as pipeline, open_run("sft", config) as stage:
        pass
    assert client.get_run(stage.run_id).data.tags["mlflow.parentRunId"] == pipeline.run_id


@pytest.mark.parametrize("opener", [open_run, open_pipeline_run])
def test_an_injected_run_is_used_once_and_ended(
    opener: Any, config: StageConfig, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tracking.experiment_id(client, config.tracking)
    injected = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    monkeypatch.setenv(tracking.PARENT_RUN_VARIABLE, "not-looked-at")
    with opener("sft", config) as run:
        assert run.run_id == injected
        assert "MLFLOW_RUN_ID" not in os.environ
        assert client.get_run(injected).info.status == "RUNNING"
    assert client.get_run(injected).info.status == "FINISHED"


@pytest.mark.parametrize(
    "error, status",
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(4), "FAILED"),
        (DataError("rows.json: empty"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_a_run_ends_as_its_block_ends(
    error: BaseException | None, status: str, config: StageConfig, client: Any
) -> None:
    def work() -> None:
        with open_run("sft", config) as run:
            run_ids.append(run.run_id)
            if error:
                raise error

    run_ids: list[str] = []
    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert client.get_run(run_ids[0]).info.status == status
    if isinstance(error, DataError):
        tags = client.get_run(run_ids[0]).data.tags
        assert tags["ytrainer.error"] == "DataError: rows.json: empty"


def test_sigterm_ends_a_run_as_killed(config: StageConfig, client: Any) -> None:
    with pytest.raises(KeyboardInterrupt), open_run("sft", config) as run:
        os.kill(os.getpid(), signal.SIGTERM)
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_failed_run_of_the_same_key_is_continued(config: StageConfig, client: Any) -> None:
    with pytest.raises(ValueError, match="bad"), open_run("sft", config, key="k") as first:
        raise ValueError("bad")
    with open_run("sft", config, key="other") as other:
        pass
    with open_run("evaluate", config, key="k") as other_stage:
        pass
    with open_run("sft", config, key="k") as second:
        assert client.get_run(second.run_id).info.status == "RUNNING"
    assert second.run_id == first.run_id
    assert len({first.run_id, other.run_id, other_stage.run_id}) == 3
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["ytrainer.restarts"] == "1"
    assert "ytrainer.error" not in found.data.tags
    with open_run("sft", config, key="k") as third:  # it finished: nothing to continue
        pass
    assert third.run_id != first.run_id
    with open_run("sft", config, resume_run_id=first.run_id) as named:
        pass
    assert named.run_id == first.run_id


def test_a_killed_process_leaves_a_run_that_the_next_one_ends_and_continues(
    config: StageConfig, client: Any
) -> None:
    dead = start(config, "die")
    assert dead.stdout is not None
    run_id = dead.stdout.readline().strip()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
    experiment = tracking.experiment_id(client, config.tracking)
    with open_run("sft", config, key="alive") as alive:
        assert client.get_run(run_id).info.status == "KILLED"  # swept when `alive` was opened
        assert sweep_dead_runs(client, experiment) == []
        assert client.get_run(alive.run_id).info.status == "RUNNING"
    dead.communicate()
    with open_run("sft", config, key="k1") as again:
        again.log({"loss": 0.5}, step=6)
    assert again.run_id == run_id
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [5, 6]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_of_another_host_is_not_swept(
    config: StageConfig, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tracking.experiment_id(client, config.tracking)
    tags = {tracking.HOST_TAG: "elsewhere/1", tracking.PID_TAG: "1", tracking.START_TAG: "0.0"}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    assert sweep_dead_runs(client, experiment) == []
    assert client.get_run(run_id).info.status == "RUNNING"
    monkeypatch.setattr(leftovers, "host", lambda: "elsewhere/1")
    assert sweep_dead_runs(client, experiment) == [run_id]  # pid 1 lives, but started later


def test_two_processes_may_make_the_store_at_once_and_say_nothing(
    config: StageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YTRAINER_HOME", str(tmp_path))
    (tmp_path / ".mlflow.db.new").write_text("left by a process that was killed")
    both = [start(config), start(config)]
    answers = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [err for _, err in answers] == ["", ""]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for out, _ in answers:
        assert client.get_run(out.strip()).info.status == "FINISHED"


def test_a_value_that_is_no_number_is_named_and_the_others_are_logged(
    config: StageConfig, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run("sft", config) as run:
        run.log({"loss": 1.0, "verdict": "good"})  # type: ignore[dict-item]
    assert client.get_run(run.run_id).data.metrics == {"loss": 1.0}
    assert "metric verdict" in caplog.text


def test_an_unreachable_store_is_refused_at_the_start_and_its_password_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(opening, "_START_SECONDS", 0.0)
    config = StageConfig(tracking=TrackingConfig(uri="http://me:secret@127.0.0.1:9"))
    with pytest.raises(YTrainerError) as caught, open_run("sft", config):
        pass
    assert str(caught.value).startswith("tracking.uri http://127.0.0.1:9: MLflow failed")
    assert str(caught.value).endswith("or set tracking.enabled=false.")
    assert "secret" not in str(caught.value)


def test_nothing_is_recorded_where_tracking_is_off_or_mlflow_is_missing(
    config: StageConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    off = StageConfig(tracking=TrackingConfig(enabled=False))
    with open_run("sft", off) as run:
        assert isinstance(run, NullRun)
        run.log({"loss": 1.0})
    assert caplog.text == ""
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with open_run("sft", config) as run:
        assert run.run_id == ""
    assert len(caplog.records) == 1
    assert "mlflow is not installed" in caplog.text
