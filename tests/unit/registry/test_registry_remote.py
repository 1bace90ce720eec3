"""A real MLflow server over HTTP, its artifacts on a real S3 server: the same promises hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import registry, tracking
from ytrainer_core.config import RegisterConfig, RegistryConfig, TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry import (
    fetch_registered,
    list_models,
    promote,
    register_model,
    rollback,
    show,
    verify,
)
from ytrainer_core.tracking import NullRun, open_run

Register = Callable[..., registry.Version]


@pytest.fixture(scope="module")
def where(server: str) -> TrackingConfig:
    return TrackingConfig(uri=server, experiment="remote")


@pytest.mark.usefixtures("in_process_proof")
def test_a_server_keeps_runs_and_versions_as_the_file_does(
    where: TrackingConfig, adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = RegisterConfig(tracking=where, registry=RegistryConfig(name="remote"))
    with open_run("register", config) as run:
        run.log({"loss": float("nan")}, step=3)
        version = register_model(adapter, config, run=run, tags={"ytrainer.gate": "passed"})
    assert version.max_delta <= 1e-5
    assert promote(version.uri, tracking=where).version == 1
    (model,) = [model for model in list_models(where) if model.name == "remote"]
    assert model.versions[0].aliases == ("challenger", "champion")
    with pytest.raises(RegistryError, match="first champion"):
        rollback("remote", tracking=where)
    history = tracking.connect(where).get_metric_history(run.run_id, "loss")
    assert history[0].step == 3 and history[0].value != history[0].value
    assert "View run" not in "".join(capfd.readouterr())
    assert register_model(adapter, config, run=NullRun(), tags={}).version == 2


@pytest.mark.parametrize("form", ["adapter", "full", "merged"])
@pytest.mark.usefixtures("in_process_proof")
def test_every_form_comes_back_from_s3_through_the_server(
    form: str, where: TrackingConfig, adapter: Path, full: Path, bucket: Any, register: Register
) -> None:
    trained = full if form == "full" else adapter
    wanted = "full" if form == "merged" else "auto"
    version = register(trained, f"proxied-{form}", tracking=where, form=wanted)
    tags = show(version.uri, tracking=where).tags
    assert tags["ytrainer.form"] == form and tags["ytrainer.proof"] == "passed"
    stored = [each.key for each in bucket.objects.filter(Prefix="proxied/")]
    assert any(tags["ytrainer.model_id"] in key for key in stored), "nothing lies in the bucket"
    fetched = fetch_registered(version.uri, tracking=where)
    assert (fetched / "tokenizer.json").is_file()
    key = next(key for key in stored if tags["ytrainer.model_id"] in key and "probe" in key)
    bucket.Object(key).put(Body=b"changed in the bucket")
    with pytest.raises(RegistryError, match=r"probe\.safetensors .*changed or damaged"):
        verify(version.uri, tracking=where)


def test_a_fresh_process_proves_what_the_client_itself_put_into_s3(
    server: str, adapter: Path, bucket: Any, register: Register
) -> None:
    direct = TrackingConfig(uri=server, experiment="direct")
    tracking.connect(direct).create_experiment("direct", f"s3://{bucket.name}/direct")
    version = register(adapter, "direct", tracking=direct)
    assert version.max_delta == 0.0
    assert [each.key for each in bucket.objects.filter(Prefix="direct/")]
    assert promote(version.uri, tracking=direct).version == 1


@pytest.mark.usefixtures("in_process_proof")
def test_the_training_run_and_its_metric_history_are_linked(
    where: TrackingConfig, adapter: Path, register: Register, tmp_path: Path
) -> None:
    config = RegisterConfig(tracking=where)
    with open_run("sft", config) as run:
        run.log({"loss": 1.0}, 1)
    folder = shutil.copytree(adapter, tmp_path / "model")
    card = json.loads((folder / "ytrainer.json").read_text())
    (folder / "ytrainer.json").write_text(json.dumps(card | {"run_id": run.run_id}))
    version = register(folder, "linked", tracking=where)
    tags = show(version.uri, tracking=where).tags
    experiment = tracking.connect(where).get_run(run.run_id).info.experiment_id
    assert tags["ytrainer.training_run_id"] == run.run_id
    page = f"{where.uri}/#/experiments/{experiment}/runs/{run.run_id}"
    assert tags["ytrainer.training_run_url"] == page


@pytest.mark.usefixtures("in_process_proof")
def test_a_server_that_goes_away_in_the_middle_is_said_with_the_way_to_repeat(
    where: TrackingConfig, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    config = RegisterConfig(tracking=where, registry=RegistryConfig(name="halfway"))

    def gone(self: MlflowClient, model_id: str, folder: str) -> None:
        raise ConnectionError("connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", gone)
        with pytest.raises(RegistryError, match="connection reset") as told:
            register_model(adapter, config, run=NullRun(), tags={})
    assert f"`ytrainer registry register {adapter}`" in str(told.value)
    assert register_model(adapter, config, run=NullRun(), tags={}).version == 1
