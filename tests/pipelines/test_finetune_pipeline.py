"""The finetune pipeline, for real: what it makes, what MLflow knows, what the gate decides."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from parity import given_by, given_in
from safetensors import safe_open

from ytrainer_core.cli.main import main
from ytrainer_core.data.corpus import load_corpus
from ytrainer_core.files import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["validate", "score", "order", "sft", "evaluate", "register", "promote"]
WITH_REPORT = STAGES[:5]
NOT_IN_THE_STEPS = {"train", "validation", "general", "max_rows"}
"""Knobs of data that only validate reads: later stages get its output instead."""


@pytest.fixture
def parent(passed: Any) -> Any:
    """The pipeline's own run in MLflow."""
    return passed.runs("tags.`ytrainer.stage` = 'pipeline/finetune'")[0]


@pytest.fixture
def runs(passed: Any, parent: Any) -> dict[str, Any]:
    """Stage -> its newest run."""
    return {stage: found[-1] for stage, found in passed.below(parent.info.run_id).items()}


@pytest.fixture
def at_home(passed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line works on the store that the runs were made in."""
    monkeypatch.setenv("YTRAINER_HOME", str(passed.home))


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(list(words))
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


# --- killed during training, started again -------------------------------------------------------


def test_a_killed_pipelines_training_dies_with_it(passed: Any) -> None:
    assert passed.killed.exit_code == -signal.SIGKILL
    assert not passed.killed.survivors


def test_a_killed_pipeline_could_not_close_its_runs(passed: Any) -> None:
    assert set(passed.killed.left_running) == {"pipeline/finetune", "sft"}


def test_started_again_it_completes_and_continues_from_the_checkpoint(
    passed: Any, corpus: Any
) -> None:
    told = passed.stages["sft"]
    steps = corpus.tree()["train"]["max_steps"]
    at = int(passed.killed.checkpoint.name.rsplit("-", 1)[-1])
    assert passed.exit_code == 0
    match = re.fullmatch(rf"{steps} \(continued from (\d+)\)", told["summary"]["optimizer steps"])
    assert match and at <= int(match[1]) < steps
    assert told["metrics"]["optimizer_steps"] == steps


def test_the_killed_runs_are_continued_not_doubled(passed: Any, parent: Any) -> None:
    assert len(passed.runs("tags.`ytrainer.stage` = 'pipeline/finetune'")) == 1
    (training,) = passed.below(parent.info.run_id)["sft"]
    assert parent.data.tags["ytrainer.restarts"] == "1"
    assert training.data.tags["ytrainer.restarts"] == "1"


@pytest.mark.parametrize("reaped", [True, False])
def test_a_step_ends_soon_after_its_pipeline_even_if_nobody_waited_for_that(reaped: bool) -> None:
    """In a container whose first process reaps nothing, a killed pipeline stays a zombie."""
    pipeline = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    program = "import time; from ytrainer_core.stages.run import watch_pipeline; watch_pipeline()"
    step = subprocess.Popen(
        [sys.executable, "-c", f"{program}; print('watching', flush=True); time.sleep(60)"],
        env=os.environ | {"YTRAINER_PIPELINE_PID": str(pipeline.pid)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert step.stdout and step.stdout.readline() == "watching\n"
    assert step.poll() is None
    pipeline.kill()
    if reaped:
        pipeline.wait()
    assert step.wait(timeout=20) == 4
    pipeline.wait()


# --- what it made --------------------------------------------------------------------------------


def test_every_stage_runs_and_the_gate_agrees(passed: Any) -> None:
    assert list(passed.stages) == STAGES
    assert passed.version == "models:/tiny/1"
    judged = passed.stages["evaluate"]["metrics"]
    assert passed.stages["evaluate"]["values"]["passed"] is True
    assert judged["target_loss"] < judged["base_target_loss"]
    assert all(math.isfinite(value) for value in judged.values())


def test_the_result_file_says_what_the_command_said(passed: Any) -> None:
    stored = json.loads((passed.folder / "result.json").read_text())
    assert stored["stages"] == passed.stages
    assert (stored["passed"], stored["version"]) == (True, passed.version)


def test_a_person_sees_every_stage_end(passed: Any) -> None:
    assert re.findall(r"✓ (\w+) +[\d.]+ s", passed.log) == STAGES


def test_rows_are_trained_in_the_order_that_was_asked_for(passed: Any) -> None:
    order = json.loads(Path(passed.stages["order"]["outputs"]["order"]).read_text())
    assert order["mode"] == "mean_loss" and sorted(order["rows"]) == list(range(50))


def test_a_run_has_made_what_the_compiled_pipeline_declares(passed: Any) -> None:
    compiled = Path(__file__).parents[2] / "pipelines" / "compiled" / "finetune.yaml"
    declared = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
    assert given_in(passed.folder / "kfp") == given_by(declared)


def test_a_report_per_stage_lies_in_one_folder_and_loads_nothing_from_the_network(
    passed: Any,
) -> None:
    reports = passed.folder / "reports"
    assert {file.name for file in reports.iterdir()} == {f"{stage}.html" for stage in WITH_REPORT}
    for file in reports.iterdir():
        text = file.read_text(encoding="utf-8")
        assert text.lower().startswith("<!doctype html") and "</html>" in text
        assert 'src="http' not in text and 'href="http' not in text


def test_the_resolved_config_lies_beside_every_stages_result(passed: Any) -> None:
    folder = passed.folder
    whole = json.loads((folder / "config.json").read_text())
    assert whole["optim"]["learning_rate"] == 1e-2 and whole["seed"] == 42
    for stage in STAGES:
        own = json.loads((folder / "stages" / f"{stage}.config.json").read_text())
        for section, knobs in own.items():
            if section == "data" and stage != "validate":
                knobs = {k: v for k, v in knobs.items() if k not in NOT_IN_THE_STEPS}
            expected = whole[section]
            if isinstance(knobs, dict):
                expected = {key: expected[key] for key in knobs}
            assert knobs == expected, (stage, section)


def test_the_trained_model_is_an_adapter_in_safetensors(passed: Any) -> None:
    model = Path(passed.stages["sft"]["outputs"]["model"])
    with safe_open(model / "adapter_model.safetensors", "pt") as weights:
        assert weights.keys() and all("lora" in name for name in weights.keys())  # noqa: SIM118
    assert not list(model.glob("*.bin"))


def test_finished_training_leaves_no_checkpoint(passed: Any) -> None:
    assert not list((passed.home / "checkpoints").glob("*/checkpoint-*"))


# --- what MLflow knows ---------------------------------------------------------------------------


def test_one_parent_run_holds_the_finished_runs_of_seven_stages(passed: Any, parent: Any) -> None:
    below = passed.below(parent.info.run_id)
    nested = [run for runs in below.values() for run in runs]
    assert list(below) == STAGES
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    assert {run.info.experiment_id for run in nested} == {parent.info.experiment_id}


def test_every_run_records_its_resolved_config(parent: Any, runs: dict[str, Any]) -> None:
    assert parent.data.params["optim.learning_rate"] == "0.01"
    assert runs["sft"].data.params["optim.learning_rate"] == "0.01"
    assert runs["sft"].data.params["lora.rank"] == "4"
    assert runs["evaluate"].data.params["gate.min_rows"] == "10"
    for stage in ("validate", "score", "order", "sft", "evaluate"):
        assert runs[stage].data.params["seed"] == "42", stage


def test_metrics_are_those_that_the_stages_told_and_the_parent_has_them_all(
    passed: Any, parent: Any, runs: dict[str, Any]
) -> None:
    for stage, told in passed.stages.items():
        for name, value in told["metrics"].items():
            if math.isfinite(value):
                assert runs[stage].data.metrics[name] == pytest.approx(value), (stage, name)
    assert {"target_loss", "rows_read", "model_version"} <= set(parent.data.metrics)


def test_losses_are_recorded_live_across_the_interruption(
    passed: Any, runs: dict[str, Any], corpus: Any
) -> None:
    train = corpus.tree()["train"]
    history = passed.client.get_metric_history(runs["sft"].info.run_id, "loss")
    every = train["logging_steps"]
    assert {point.step for point in history} == {*range(every, train["max_steps"] + 1, every)}


def test_runs_name_the_files_they_read_with_their_sha256(corpus: Any, runs: dict[str, Any]) -> None:
    expected = {
        name: (split, sha256_file(corpus.folder / name))
        for name, split in [
            ("train.json", "train"),
            ("validation.json", "validation"),
            ("general.txt", "general"),
        ]
    }
    for stage in ("validate", "sft"):
        read = {}
        for one in runs[stage].inputs.dataset_inputs:
            tags = {tag.key: tag.value for tag in one.tags}
            read[one.dataset.name] = (tags["mlflow.data.context"], tags["sha256"])
        assert read == expected, stage


def test_reports_are_artifacts_of_their_runs(passed: Any, runs: dict[str, Any]) -> None:
    for stage in WITH_REPORT:
        stored = passed.client.list_artifacts(runs[stage].info.run_id, "reports")
        assert [Path(file.path).suffix for file in stored] == [".html"], stage
        assert stored[0].file_size > 1000


# --- the registry --------------------------------------------------------------------------------


def test_the_version_is_champion_and_says_where_it_came_from(
    passed: Any, runs: dict[str, Any]
) -> None:
    champion = passed.client.get_model_version_by_alias("tiny", "champion")
    dataset = load_corpus(Path(passed.stages["score"]["outputs"]["dataset"]))
    assert int(champion.version) == 1
    assert champion.tags["ytrainer.proof"] == "passed"
    assert champion.tags["ytrainer.gate"] == "passed"
    assert dataset.manifest["sha256"] in champion.tags.values()
    loss = passed.stages["evaluate"]["metrics"]["target_loss"]
    assert float(champion.tags["ytrainer.metric.target_loss"]) == pytest.approx(loss)


def test_the_champion_verifies(passed: Any, at_home: None, capsys: Any) -> None:
    assert command("registry", "verify", "models:/tiny@champion") == 0
    assert "max |Δlogit|" in capsys.readouterr().out


def test_the_champion_answers(passed: Any, at_home: None, capsys: Any) -> None:
    asked = ["--once", "Which colour has number 3?", "--max-new-tokens", "3"]
    assert command("chat", "models:/tiny@champion", *asked) == 0
    assert capsys.readouterr().out.endswith("\n")


# --- a run that the gate rejects, below an injected run ------------------------------------------


def test_a_rejection_says_why_and_exits_3(rejected: Any) -> None:
    assert rejected.rejection.exit_code == 3
    assert "models:/tiny/2" in str(rejected.rejection)
    assert "- Target loss" in str(rejected.rejection)


def test_a_rejected_version_is_kept_and_the_champion_stays(rejected: Any) -> None:
    client = rejected.client
    assert int(client.get_model_version_by_alias("tiny", "champion").version) == 1
    second = client.get_model_version("tiny", "2")
    assert second.tags["ytrainer.gate"] == "rejected" and "champion" not in second.aliases


def test_an_injected_run_is_the_parent(rejected: Any) -> None:
    parent = rejected.client.get_run(rejected.injected_run_id)
    below = rejected.below(rejected.injected_run_id)
    assert list(below) == STAGES[:-1], "nothing is promoted"
    assert [len(runs) for runs in below.values()] == [1] * 6
    nested = [run for runs in below.values() for run in runs]
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    assert parent.data.tags["ytrainer.gate"] == "rejected"
    assert parent.data.params["gate.min_target_loss_drop"] == "100.0"


def test_a_rejected_version_cannot_be_promoted_by_hand_without_force(
    rejected: Any, at_home: None, capsys: Any
) -> None:
    assert command("registry", "promote", "models:/tiny/2") == 4
    assert "gate" in capsys.readouterr().err
    assert int(rejected.client.get_model_version_by_alias("tiny", "champion").version) == 1


def test_metrics_that_are_no_numbers_do_not_stop_a_pipeline(rejected: Any) -> None:
    """Five steps log no loss where one in ten is logged; kfp cannot store a NaN."""
    (training,) = rejected.below(rejected.injected_run_id)["sft"]
    assert training.data.metrics["optimizer_steps"] == 5
    assert "final_train_loss" not in training.data.metrics


def test_no_run_is_left_running(rejected: Any) -> None:
    assert not rejected.runs("attributes.status = 'RUNNING'")


def test_home_holds_what_the_design_names(rejected: Any) -> None:
    made = {path.name for path in rejected.home.iterdir() if not path.name.startswith(".")}
    assert made <= {"mlflow.db", "mlartifacts", "pipelines", "checkpoints", "cache", "tracking"}


# --- last: what it does to the store -------------------------------------------------------------


def test_one_changed_byte_of_the_registered_adapter_fails_the_verification(
    rejected: Any, at_home: None, capsys: Any
) -> None:
    adapter = next(rejected.home.rglob("mlartifacts/**/adapter_model.safetensors"))
    before = adapter.read_bytes()
    adapter.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        codes = {command("registry", "verify", f"models:/tiny/{v}") for v in (1, 2)}
    finally:
        adapter.write_bytes(before)
    assert codes == {0, 4}
    assert "adapter_model.safetensors" in capsys.readouterr().err
