"""The trigger against a Kubeflow API: how every way in which a run can end comes out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from homes import CLI
from kfp_stub import STEPS, Fault, Stub, serving

from ytrainer_core import __version__
from ytrainer_core.cli.main import main

SECRET = "the-secret-token"


@dataclass(frozen=True)
class Outcome:
    """How a call of the trigger ended."""

    code: int
    out: str
    err: str
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        return " ".join(self.err.split())


@dataclass
class Place:
    """A corpus, a config, a registry under a name of its own, and an API."""

    folder: Path
    stub: Stub
    store: str
    name: str

    @property
    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.store, registry_uri=self.store)

    def register(self, tags: dict[str, str], gate: str = "passed", **others: str) -> int:
        """A version as the register step makes it; what passed becomes champion."""
        from mlflow.exceptions import MlflowException

        client = self.client
        try:
            client.create_registered_model(self.name)
        except MlflowException as error:
            assert error.error_code == "RESOURCE_ALREADY_EXISTS"
        own = {
            "ytrainer.proof": "passed",
            "ytrainer.gate": gate,
            "ytrainer.form": "adapter",
            "ytrainer.metric.target_loss": "0.25",
            "ytrainer.gate_reasons": f"+ enough rows\n- the loss {gate}",
        }
        made = client.create_model_version(
            self.name, str(self.folder), tags={**tags, **own, **others}
        )
        if gate == "passed":
            client.set_registered_model_alias(self.name, "champion", made.version)
        return int(made.version)

    def works(self, gate: str = "passed") -> Callable[[Any], None]:
        """What the steps of a run do until it is over."""
        return lambda run: void(self.register(self.stub.tags_of(run), gate))

    def words(self, *more: str) -> list[str]:
        return [
            "trigger",
            str(self.folder / "retrain.yaml"),
            *("--host", self.stub.url, "--poll", "0.02", "--out", str(self.folder / "out")),
            *more,
        ]


def void(_: object) -> None:
    """Nothing."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One sqlite store for all tests; each has a model name of its own."""
    from ytrainer_core import tracking
    from ytrainer_core.config import TrackingConfig

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracking.connect(TrackingConfig(uri=uri))
    return uri


@pytest.fixture
def place(
    tmp_path: Path,
    store: str,
    base_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Place]:
    for name in ("KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_NAMESPACE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipelines.api._FIRST_PAUSE_SECONDS", 0.01)
    model = re.sub(r"\W+", "-", request.node.name)
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    (tmp_path / "retrain.yaml").write_text(
        f"model: {{name_or_path: {base_folder}}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}}}\n"
        f"registry: {{name: {model}}}\n"
        f"tracking: {{uri: '{store}'}}\n"
    )
    with serving(Stub()) as stub:
        made = Place(tmp_path, stub, store, model)
        stub.finish = made.works()
        yield made


@pytest.fixture
def trigger(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.setenv("COLUMNS", "300")

    def call(*more: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(place.words(*more))
        told = capsys.readouterr()
        assert isinstance(leaving.value.code, int)
        file = place.folder / "out" / "result.json"
        result = json.loads(file.read_text()) if file.exists() else {}
        return Outcome(leaving.value.code, told.out, told.err, result)

    return call


Trigger = Callable[..., Outcome]


# --- promoted, unchanged, rejected ---------------------------------------------------------------


def test_a_run_that_succeeds_and_passes_is_promoted_and_told_everywhere(
    place: Place, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, outputs = place.folder / "page.md", place.folder / "outputs"
    page.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    done = trigger()
    assert done.code == 0
    version = f"models:/{place.name}/1"
    assert done.result["outcome"] == "promoted" and done.result["version"] == version
    assert done.result["exit_code"] == 0
    assert done.result["tasks"] == dict.fromkeys(STEPS, "SUCCEEDED")
    assert done.result["metrics"] == {"target_loss": 0.25}
    assert done.result["reasons"] == ["+ enough rows", "- the loss passed"]
    assert done.result["url"] == f"{place.stub.url}/#/runs/details/run-1"
    summary = (place.folder / "out" / "summary.md").read_text()
    assert f"{version} is the champion" in summary and "| sft | SUCCEEDED |" in summary
    assert page.read_text() == f"# before\n{summary}"
    assert outputs.read_text() == f"outcome=promoted\nversion={version}\n"


def test_task_states_are_told_as_they_change_and_drivers_are_not(trigger: Trigger) -> None:
    lines = [line for line in trigger().err.splitlines() if line.startswith("sft")]
    assert lines == ["sft: PENDING", "sft: RUNNING", "sft: SUCCEEDED"]


def test_unchanged_inputs_end_with_7_and_start_nothing(place: Place, trigger: Trigger) -> None:
    assert trigger().code == 0
    requests = len(place.stub.requests)
    again = trigger()
    assert again.code == 7
    assert len(place.stub.requests) == requests
    (line,) = again.out.splitlines()
    assert line.startswith(f"nothing changed since models:/{place.name}/1 (@champion)")
    assert again.result["outcome"] == "unchanged" and again.result["exit_code"] == 7


def test_changed_rows_are_named_and_trained_from_the_champion(
    place: Place, trigger: Trigger
) -> None:
    assert trigger().code == 0
    with (place.folder / "rows.jsonl").open("a") as rows:
        rows.write('{"question": "2+2?", "answer": "4"}\n')
    done = trigger()
    assert done.code == 0
    assert done.result["changes"] == [f"data: changed train/{place.folder / 'rows.jsonl'}"]
    champion = f"models:/{place.name}/1"
    assert done.result["previous"] == done.result["init_from"] == champion
    first, second = place.stub.runs.values()
    assert "init_from" not in first.runtime_config.parameters
    assert second.runtime_config.parameters["init_from"] == champion
    assert trigger().code == 7


def test_a_changed_knob_is_named_and_retrained(trigger: Trigger) -> None:
    assert trigger().code == 0
    done = trigger("optim.learning_rate=1e-5")
    assert done.code == 0
    assert done.result["changes"] == ["config: optim.learning_rate default -> 1e-05"]


def test_a_new_image_is_retrained(trigger: Trigger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YTRAINER_IMAGE_DIGEST", "sha256:aa")
    assert trigger().code == 0
    monkeypatch.setenv("YTRAINER_IMAGE_DIGEST", "sha256:bb")
    (change,) = trigger().result["changes"]
    assert (
        change == f"image: sha256:aa, ytrainer {__version__} -> sha256:bb, ytrainer {__version__}"
    )


def test_a_rejected_model_ends_with_3_and_is_not_trained_again_without_force(
    place: Place, trigger: Trigger
) -> None:
    place.stub.finish = place.works(gate="rejected")
    done = trigger()
    assert done.code == 3 and done.result["outcome"] == "rejected"
    assert f"the gate rejected models:/{place.name}/1" in done.said
    assert "- the loss rejected" in done.result["reasons"]
    again = trigger()
    assert again.code == 7 and "(rejected by the gate)" in again.out
    assert len(place.stub.runs) == 1
    assert trigger("--force").code == 3
    assert len(place.stub.runs) == 2


def test_a_rejected_successor_leaves_the_champion_and_the_next_call_compares_with_both(
    place: Place, trigger: Trigger
) -> None:
    assert trigger().code == 0
    place.stub.finish = place.works(gate="rejected")
    assert trigger("seed=1").code == 3
    assert trigger("seed=1").code == 7  # the rejected one
    assert trigger().code == 7  # the champion
    assert place.client.get_model_version_by_alias(place.name, "champion").version in ("1", 1)


def test_a_rolled_back_version_is_not_trained_again(place: Place, trigger: Trigger) -> None:
    assert trigger().code == 0
    assert trigger("seed=1").code == 0
    place.client.set_model_version_tag(place.name, "2", "ytrainer.rolled_back", "2026-01-01")
    place.client.set_registered_model_alias(place.name, "champion", "1")
    again = trigger("seed=1")
    assert again.code == 7 and f"models:/{place.name}/2 (rolled back)" in again.out


def test_a_version_that_passed_and_was_never_promoted_is_made_again(
    place: Place, trigger: Trigger
) -> None:
    def dies_before_promotion(run: Any) -> None:
        place.works()(run)
        place.client.delete_registered_model_alias(place.name, "champion")

    place.stub.finish = dies_before_promotion
    place.stub.states = ["FAILED"]
    assert trigger().code == 4
    place.stub.states, place.stub.finish = ["SUCCEEDED"], place.works()
    assert trigger().code == 0


def test_a_champion_of_other_origin_is_replaced_and_trained_on(
    place: Place, trigger: Trigger
) -> None:
    place.register({})
    done = trigger()
    assert done.code == 0
    assert "was not trained by this command" in done.result["changes"][0]
    assert done.result["init_from"] == f"models:/{place.name}/1"


def test_a_full_champion_is_not_trained_on_but_its_base_is(place: Place, trigger: Trigger) -> None:
    place.register({}, **{"ytrainer.form": "full"})
    done = trigger()
    assert done.code == 0 and done.result["init_from"] == ""
    assert "training begins at the base" in done.result["changes"][1]


# --- failed, cancelled, timed out ----------------------------------------------------------------


def test_a_failed_run_ends_with_4_and_names_the_step_and_its_error(
    place: Place, trigger: Trigger
) -> None:
    place.stub.states = ["RUNNING", "FAILED"]
    place.stub.failing = {"sft": "DataError: rows.jsonl:3: is not JSON"}
    place.stub.finish = void
    done = trigger()
    assert done.code == 4 and done.result["outcome"] == "failed"
    assert "sft: DataError: rows.jsonl:3: is not JSON" in done.result["reasons"]
    assert done.result["tasks"]["sft"] == "FAILED"


def test_a_run_that_is_cancelled_on_the_cluster_ends_with_5(place: Place, trigger: Trigger) -> None:
    place.stub.states, place.stub.finish = ["RUNNING", "CANCELING", "CANCELED"], void
    done = trigger()
    assert done.code == 5 and done.result["outcome"] == "cancelled"
    assert place.stub.count("POST", ":terminate") == 0


def test_a_run_that_hangs_ends_with_6_and_is_terminated(place: Place, trigger: Trigger) -> None:
    place.stub.states = ["RUNNING"]
    done = trigger("--timeout", "0.01")
    assert done.code == 6 and done.result["outcome"] == "timed_out"
    assert place.stub.count("POST", "run-1:terminate") == 1
    assert place.stub.runs["run-1"].state == "CANCELING"


def test_a_run_that_is_being_terminated_is_not_waited_for_again(
    place: Place, trigger: Trigger
) -> None:
    place.stub.states = ["RUNNING"]
    assert trigger("--timeout", "0.01").code == 6
    place.stub.states = ["SUCCEEDED"]
    done = trigger()
    assert done.code == 0 and done.result["run"] == "run-2"


def test_a_run_that_succeeds_without_a_version_of_its_own_is_a_failure(
    place: Place, trigger: Trigger
) -> None:
    place.stub.finish = void
    done = trigger()
    assert done.code == 4 and "Do its steps write to the MLflow" in done.said


def test_a_version_that_passed_but_lost_the_promotion_is_a_failure(
    place: Place, trigger: Trigger
) -> None:
    def loses(run: Any) -> None:
        place.works()(run)
        place.register({"ytrainer.trigger.data": "another"})

    place.stub.finish = loses
    done = trigger()
    assert done.code == 4 and "another version is champion now" in done.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_terminates_the_remote_run_and_ends_with_5(place: Place, number: int) -> None:
    place.stub.states = ["RUNNING"]
    environment = os.environ | {"YTRAINER_HOME": str(place.folder / "home")}
    process = subprocess.Popen(
        [*CLI, *place.words()], env=environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: place.stub.count("GET", "/runs/run-1") > 1, process)
    process.send_signal(number)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(timeout=30) == 5, said
    assert place.stub.count("POST", "run-1:terminate") == 1
    assert "the run is being terminated" in said
    result = json.loads((place.folder / "out" / "result.json").read_text())
    assert result["outcome"] == "cancelled" and result["run"] == "run-1"


def until(reached: Callable[[], bool], process: Any) -> None:
    while not reached():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


# --- an API that fails for a while ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "status"),
    [
        *((r"GET .*/runs/run-1", status) for status in (500, 502, 503, 504, 429, 0)),
        *((match, 503) for match in (r"GET .*/pipelines$", r"POST .*/runs$", r"GET .*/runs$")),
        (r"POST .*/runs$", 0),
    ],
)
def test_a_burst_of_failures_is_waited_out(
    match: str, status: int, place: Place, trigger: Trigger
) -> None:
    place.stub.faults = [Fault(match, times=3, status=status)]
    done = trigger()
    assert done.code == 0
    assert place.stub.faults[0].times == 0
    assert len(place.stub.runs) == 1
    assert "the API does not answer as it should" in done.said


def test_a_run_whose_creation_got_no_answer_is_found_and_not_created_twice(
    place: Place, trigger: Trigger
) -> None:
    place.stub.faults = [Fault("POST .*/runs$", before=False)]
    assert trigger().code == 0
    assert place.stub.count("POST", "/runs$") == 1
    assert len(place.stub.runs) == 1


def test_a_version_whose_upload_got_no_answer_is_found(place: Place, trigger: Trigger) -> None:
    place.stub.faults = [Fault("POST .*/upload_version", before=False)]
    assert trigger().code == 0
    assert len(place.stub.versions) == 1


def test_an_api_that_stays_silent_is_given_up_with_4_and_the_run_is_found_by_the_next_call(
    place: Place, trigger: Trigger
) -> None:
    place.stub.faults = [Fault("GET .*/runs/run-1", times=10**6, status=503)]
    done = trigger("--patience", "0.005")
    assert done.code == 4 and "has not answered" in done.said
    assert "the same command finds it again" in done.said
    place.stub.faults = []
    again = trigger()
    assert again.code == 0 and "runs already" in again.said
    assert len(place.stub.runs) == 1 and again.result["run"] == "run-1"


def test_a_server_that_is_not_there_is_given_up(place: Place, trigger: Trigger) -> None:
    place.stub.url = "http://127.0.0.1:9"
    done = trigger("--patience", "0.003")
    assert done.code == 4 and "127.0.0.1:9" in done.said and "Check the URL" in done.said


def test_a_login_page_is_told_from_the_api(place: Place, trigger: Trigger) -> None:
    page = Fault("GET", times=99, status=200, body="<html>Log in</html>", kind="text/html")
    place.stub.faults = [page]
    done = trigger()
    assert done.code == 4 and "as a login page does" in done.said
    place.stub.faults = [Fault("GET", times=99, status=302, body="", kind="text/html")]
    assert "give a token" in trigger().said


def test_what_the_api_refuses_is_not_asked_again(place: Place, trigger: Trigger) -> None:
    place.stub.faults = [Fault("POST .*/runs$", times=9, status=400)]
    done = trigger()
    assert done.code == 4 and "made to fail" in done.said
    assert place.stub.count("POST", "/runs$") == 1


# --- the token -----------------------------------------------------------------------------------


def test_the_token_of_the_environment_is_sent_and_never_shown(
    place: Place, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    place.stub.tokens = {SECRET}
    done = trigger()
    assert done.code == 0
    assert {request.authorization for request in place.stub.requests} == {f"Bearer {SECRET}"}
    assert SECRET not in done.out + done.err + json.dumps(done.result)


def test_an_expired_token_is_read_anew_from_its_file(
    place: Place, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.folder / "token"
    file.write_text("first\n")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(file))
    place.stub.tokens = {"first"}

    def expire(asked: Any) -> None:
        if place.stub.count("GET", "/runs/run-1") == 2:
            place.stub.tokens = {"second"}
            file.write_text("second\n")

    place.stub.watch = expire
    assert trigger().code == 0
    sent = [asked.authorization for asked in place.stub.requests if "run-1" in asked.path]
    assert sent == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


def test_a_token_that_stays_refused_is_a_clear_error_without_the_token(
    place: Place, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    place.stub.tokens = {"another"}
    done = trigger()
    assert done.code == 4 and "KFP_TOKEN_FILE" in done.said
    assert len(place.stub.requests) == 2  # once more, in case it was renewed
    assert SECRET not in done.out + done.err + json.dumps(done.result)
    assert "token '***' is not accepted" in done.said


# --- what is submitted ---------------------------------------------------------------------------


def test_the_pipeline_version_is_named_after_package_and_content_and_uploaded_once(
    place: Place, trigger: Trigger
) -> None:
    assert trigger().code == 0
    assert trigger("seed=1").code == 0
    (pipeline,) = place.stub.pipelines.values()
    (version,) = place.stub.versions.values()
    assert pipeline.display_name == "ytrainer-retrain"
    assert version.display_name.startswith(f"ytrainer-{__version__}-")
    assert len(version.display_name.rsplit("-", 1)[1]) == 8
    assert b"pipelineInfo" in place.stub.uploads[version.display_name]
    assert place.stub.count("POST", "/upload_version") == 1


def test_pipeline_run_submits_where_the_trigger_would_and_returns_at_once(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    words = ["pipeline", "run", "finetune", str(place.folder / "retrain.yaml"),
             "--host", place.stub.url, "cluster.gpus=2", "tracking.experiment=mine"]  # fmt: skip
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 0
    (run,) = place.stub.runs.values()
    assert f"#/runs/details/{run.run_id}" in capsys.readouterr().out
    assert run.display_name.startswith("finetune-2")
    assert run.runtime_config.parameters["gpus"] == "2"
    assert [each.display_name for each in place.stub.experiments.values()] == ["mine"]
    (version,) = place.stub.versions.values()
    assert version.display_name.startswith(f"ytrainer-{__version__}-")


def test_a_run_gets_headline_parameters_the_rest_and_the_tags_of_its_version(
    place: Place, trigger: Trigger
) -> None:
    assert trigger("optim.warmup_steps=3", "lora.rank=2", "registry.tags=team=a").code == 0
    (run,) = place.stub.runs.values()
    given = run.runtime_config.parameters
    assert given["lora_rank"] == 2 and given["registered_model_name"] == place.name
    assert given["config"]["optim"] == {"warmup_steps": 3}
    tags = place.stub.tags_of(run)
    assert tags["team"] == "a"
    assert {f"ytrainer.trigger.{part}" for part in ("data", "config", "base", "image")} <= set(tags)
    assert all(len(tags[f"ytrainer.trigger.{part}"]) == 64 for part in ("data", "config"))


def test_a_registry_that_the_cluster_cannot_see_is_refused_before_anything_is_sent(
    place: Place, trigger: Trigger
) -> None:
    done = trigger("tracking.uri=")
    assert done.code == 2 and "tracking.uri" in done.said
    assert not place.stub.requests


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.train=demo:train"], "exists only where it was made"),
        (["model.name_or_path=demo:base"], "exists only where it was made"),
        (["data.train=missing.jsonl"], "no such file"),
        (["--pipeline", "none"], "is no pipeline"),
        (["--local"], "say where to run"),
        (["optim.learning_rat=1"], "Did you mean"),
    ],
)
def test_a_wrong_call_ends_with_2_and_sends_nothing(
    words: list[str], said: str, place: Place, trigger: Trigger
) -> None:
    done = trigger(*words)
    assert done.code == 2 and said in done.said
    assert not place.stub.requests
