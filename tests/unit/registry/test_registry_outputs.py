"""What a training or a pipeline wrote is found, and registered by one command after a failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.cli.main import main
from ytrainer_core.config import FinetuneConfig, SftConfig, dump_json
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home, write_json, write_text
from ytrainer_core.registry import find_output, how_to_repeat

Cli = Callable[..., tuple[int, str, str]]

EVALUATION = {
    "digest": "e" * 64,
    "rows": 40,
    "passed": True,
    "reasons": [],
    "champion": "",
    "models": {"challenger": {"name": "x", "metrics": {"target_loss": {"value": 1.25}}}},
    "comparisons": {},
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """cli(*words) -> (exit code, stdout, stderr in one line)."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        told = capsys.readouterr()
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, told.out, " ".join(told.err.split())

    return run


@pytest.fixture
def pipeline(adapter: Path) -> Path:
    """A pipeline's folder after its register step has failed."""
    folder = home() / "pipelines" / f"finetune-{len(list(home().glob('pipelines/*')))}"
    model = shutil.copytree(adapter, folder / "kfp" / "sft" / "model")
    write_json(folder / "kfp" / "evaluate" / "evaluation", EVALUATION)
    for stage, name in (("sft", "model"), ("evaluate", "evaluation")):
        outputs = {"outputs": {name: str(folder / "kfp" / stage / name)}}
        write_json(folder / "stages" / f"{stage}.json", outputs)
        write_text(folder / "stages" / f"{stage}.config.json", "{}")
    config = FinetuneConfig.model_validate(
        {"registry": {"name": folder.name, "tags": "team=support"}}
    )
    write_text(folder / "config.json", dump_json(config))
    assert model.is_dir()
    return folder


def test_a_pipelines_folder_names_its_model_and_its_verdict(pipeline: Path) -> None:
    found = find_output(pipeline)
    assert found.model == pipeline / "kfp" / "sft" / "model"
    assert found.evaluation == pipeline / "kfp" / "evaluate" / "evaluation"
    assert found.sections["registry"]["name"] == pipeline.name
    assert how_to_repeat(found.model).count(f"`ytrainer registry register {pipeline}`") == 1


def test_a_trainings_folder_and_the_model_itself_are_found(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "out" / "model")
    config = SftConfig.model_validate({"tracking": {"experiment": "mine"}})
    write_text(tmp_path / "out" / "config.json", dump_json(config))
    found = find_output(tmp_path / "out")
    assert (found.model, found.evaluation) == (tmp_path / "out" / "model", None)
    assert found.sections["tracking"]["experiment"] == "mine"
    write_json(tmp_path / "judged" / "evaluation", EVALUATION)
    for given in (tmp_path / "judged", tmp_path / "judged" / "evaluation"):
        judged = find_output(tmp_path / "out" / "model", given)
        assert judged.model == tmp_path / "out" / "model"
        assert judged.evaluation == tmp_path / "judged" / "evaluation"
    assert how_to_repeat(adapter).count(f"register {adapter}`") == 1


def test_folders_without_a_model_are_refused_with_the_way_out(
    pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no trained model"):
        find_output(tmp_path)
    with pytest.raises(ConfigError, match="--evaluation"):
        find_output(pipeline, tmp_path)
    shutil.rmtree(pipeline / "kfp" / "sft")
    with pytest.raises(ConfigError, match=r"sft/model: is not there any more"):
        find_output(pipeline)
    (pipeline / "stages" / "sft.json").unlink()
    with pytest.raises(ConfigError, match="made no model"):
        find_output(pipeline)


@pytest.mark.usefixtures("in_process_proof")
def test_the_command_registers_what_a_pipeline_wrote_once(
    pipeline: Path, cli: Cli, client: Any
) -> None:
    name = pipeline.name
    code, out, _ = cli("registry", "register", pipeline, "--json")
    assert code == 0 and json.loads(out)["values"] == {"version": f"models:/{name}/1"}
    tags = client.get_model_version(name, "1").tags
    assert tags["ytrainer.gate"] == "passed"
    assert tags["ytrainer.judged_against"] == "none"
    assert tags["ytrainer.evaluation_digest"] == "e" * 64
    assert float(tags["ytrainer.metric.target_loss"]) == 1.25
    assert tags["team"] == "support"
    code, out, _ = cli("registry", "register", pipeline)
    assert code == 0 and "was registered before" in out and f"models:/{name}/1" in out
    assert cli("registry", "promote", f"models:/{name}/1")[0] == 0
    code, out, _ = cli("registry", "promote", f"models:/{name}/1")
    assert code == 0 and "nothing to do" in out
    code, out, _ = cli("registry", "register", pipeline, "--name", f"{name}-too")
    assert code == 0 and f"models:/{name}-too/1" in out
    code, _, err = cli("registry", "rollback", name)
    assert code == 4 and "first champion" in err


@pytest.mark.usefixtures("in_process_proof")
def test_rollback_by_command_says_who_is_champion_and_how_to_go_on(
    pipeline: Path, cli: Cli
) -> None:
    name = pipeline.name
    for note in ("a", "b"):
        tree = json.loads((pipeline / "config.json").read_text())
        tree["registry"]["tags"] = [f"note={note}"]
        write_json(pipeline / "config.json", tree)
        assert cli("registry", "register", pipeline)[0] == 0
    assert cli("registry", "promote", f"models:/{name}/1")[0] == 0
    code, _, err = cli("registry", "promote", f"models:/{name}/2")
    assert code == 4 and "judged without a champion, but version 1 is champion now" in err
    assert cli("registry", "promote", f"models:/{name}/2", "--force")[0] == 0
    code, out, _ = cli("registry", "rollback", name)
    assert code == 0 and f"{name} version 1" in out and "version 2" in out
    code, out, _ = cli("registry", "rollback", name)
    assert code == 0 and f"{name} version 1, as it was" in out and "promote models:/" in out


def test_mlflow_that_cannot_be_reached_is_said_with_the_way_to_repeat(
    pipeline: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, err = cli("registry", "register", pipeline)
    assert code == 4 and f"`ytrainer registry register {pipeline}`" in err
    assert "127.0.0.1:9" in err
