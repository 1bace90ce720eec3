"""What a registered version promises: it is the trained model, or nothing points at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from registry_helpers import save_adapter, save_base, save_full
from safetensors.torch import load_file, save_file

from ytrainer_core import registry, tracking
from ytrainer_core.config import RegisterConfig, RegistryConfig, TrackingConfig
from ytrainer_core.errors import ConfigError, RegistryError
from ytrainer_core.files import home
from ytrainer_core.registry import (
    fetch_registered,
    list_models,
    load_registered,
    promote,
    register_model,
    rollback,
    verify,
)
from ytrainer_core.tracking import NullRun, open_run
from ytrainer_core.training.model import load_trained

PROOF = "ytrainer_core.registry.register._prove"
GATE_PASSED = {"ytrainer.gate": "passed", "ytrainer.metric.eval_loss": "1.5"}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the whole module, and no variables from outside."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("MLFLOW_", "YTRAINER_")):
                patch.delenv(name)
        patch.setenv("YTRAINER_HOME", str(folder / "home"))
        patch.setenv("YTRAINER_GIT_SHA", "c0ffee")
        yield folder
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return save_base(place / "base")


@pytest.fixture(scope="module")
def adapter(place: Path, base: Path) -> Path:
    return save_adapter(place / "adapter", base)


@pytest.fixture(scope="module")
def proved_in_a_fresh_process(adapter: Path) -> registry.Version:
    """Version 1 of 'tiny', registered as a user does it."""
    config = RegisterConfig(registry=RegistryConfig(name="tiny"))
    with open_run("register", config) as run:
        return register_model(adapter, config, run=run, tags=GATE_PASSED)


@pytest.fixture
def in_process_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proof without the seconds that a fresh interpreter takes to import torch."""
    monkeypatch.setattr(PROOF, lambda uri, config: verify(uri, tracking=config.tracking))


def register(folder: Path, name: str, *, form: str = "auto", **tags: str) -> registry.Version:
    config = RegisterConfig(registry=RegistryConfig(name=name, form=form))
    with open_run("register", config) as run:
        return register_model(folder, config, run=run, tags=tags or GATE_PASSED)


def client() -> Any:
    return tracking.connect(TrackingConfig())


def stored_folder(version: registry.Version) -> Path:
    return Path(client().get_model_version_download_uri(version.name, str(version.version)))


def test_an_adapter_reloads_as_it_was_trained_and_is_the_challenger(
    proved_in_a_fresh_process: registry.Version, adapter: Path, base: Path
) -> None:
    version = proved_in_a_fresh_process
    assert (version.version, version.uri) == (1, "models:/tiny/1")
    assert 0 <= version.max_delta <= 1e-5
    found = client().get_model_version_by_alias("tiny", "challenger")
    tags = found.tags
    assert int(found.version) == 1
    assert tags["ytrainer.proof"] == "passed"
    assert tags["ytrainer.form"] == "adapter"
    assert tags["ytrainer.base"] == str(base)
    assert tags["ytrainer.data_sha256"] == "d" * 64
    assert tags["ytrainer.git_sha"] == "c0ffee"
    assert tags["ytrainer.gate"] == "passed"
    logged = client().get_logged_model(tags["ytrainer.model_id"])
    assert logged.source_run_id == found.run_id == tags["ytrainer.run_id"]
    assert [(m.key, m.value) for m in logged.metrics] == [("eval_loss", 1.5)]


def test_only_the_adapter_is_stored_byte_for_byte(
    proved_in_a_fresh_process: registry.Version, adapter: Path
) -> None:
    stored = stored_folder(proved_in_a_fresh_process)
    weights = sorted(file.name for file in stored.rglob("*.safetensors"))
    assert weights == ["adapter_model.safetensors", "probe.safetensors"]
    for name in ("peft/adapter_model.safetensors", "ytrainer.json", "probe.safetensors"):
        assert (stored / name).read_bytes() == (adapter / Path(name).name).read_bytes()
    assert stored.is_relative_to(home() / "mlartifacts")
    assert not list(home().glob(".register.*")) + list(home().glob(".download.*"))


def test_a_registered_adapter_is_fetched_as_the_folder_that_was_trained(
    adapter: Path, proved_in_a_fresh_process: registry.Version
) -> None:
    for _ in range(2):  # the second time over the first
        fetched = fetch_registered(proved_in_a_fresh_process.uri)
        for name in ("adapter_model.safetensors", "adapter_config.json", "ytrainer.json"):
            assert (fetched / name).read_bytes() == (adapter / name).read_bytes()
        model, tokenizer, card = load_trained(fetched)
        assert card.kind == "adapter" and tokenizer("a")["input_ids"] and model is not None


@pytest.mark.usefixtures("in_process_proof")
def test_a_registered_full_or_merged_model_is_no_adapter_to_go_on_from(
    adapter: Path, base: Path, place: Path
) -> None:
    full = register(save_full(place / "whole", base), "whole")
    merged = register(adapter, "whole", form="full")
    for version in (full, merged):
        with pytest.raises(RegistryError, match=r"model\.name_or_path"):
            fetch_registered(version.uri)


def test_pyfunc_answers_as_the_model_does_with_its_chat_template(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    model, tokenizer = load_registered("models:/tiny@challenger")
    prompt = "<|system|>Be {brief}.<|end|><|user|>What is {x}?<|end|><|assistant|>"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    mlflow.set_tracking_uri(tracking.tracking_uri(TrackingConfig()))
    served = mlflow.pyfunc.load_model("models:/tiny/1")
    assert served.predict("What is {x}?", params={"max_new_tokens": 6}) == [
        tokenizer.decode(answer, skip_special_tokens=True)
    ]


def test_one_flipped_byte_is_found_and_named(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    file = stored_folder(proved_in_a_fresh_process) / "peft" / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        for use in (verify, load_registered, fetch_registered, promote):
            with pytest.raises(RegistryError, match=r"peft/adapter_model\.safetensors.*changed"):
                use("models:/tiny/1")
        command = [sys.executable, "-m", "ytrainer_core.verify", "models:/tiny/1"]
        alone = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        file.write_bytes(whole)
    assert alone.returncode == RegistryError.exit_code == 4
    assert "peft/adapter_model.safetensors" in alone.stdout
    assert verify("models:/tiny/1").max_delta == 0.0


def test_a_missing_and_a_foreign_file_are_named_together(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    stored = stored_folder(proved_in_a_fresh_process)
    moved = (stored / "ytrainer.json").rename(stored / "other.json")
    try:
        with pytest.raises(RegistryError) as caught:
            verify("models:/tiny/1")
    finally:
        moved.rename(stored / "ytrainer.json")
    assert len(caught.value.faults) == 2
    assert "other.json" in caught.value.faults[0] and "was not registered" in caught.value.faults[0]
    assert "ytrainer.json is missing" in caught.value.faults[1]


def test_another_base_is_refused_and_a_moved_one_is_taken_from_the_environment(
    proved_in_a_fresh_process: registry.Version,
    base: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = save_base(place / "other-base", seed=9)
    with pytest.raises(RegistryError, match="other-base is not the base model"):
        verify("models:/tiny/1", base_path=str(other))
    moved = base.rename(place / "moved-base")
    try:
        with pytest.raises(RegistryError, match=f"{base}.*YTRAINER_BASE_PATH"):
            verify("models:/tiny/1")
        monkeypatch.setenv("YTRAINER_BASE_PATH", str(moved))
        assert verify("models:/tiny/1").max_delta == 0.0
    finally:
        moved.rename(base)


@pytest.mark.usefixtures("in_process_proof")
def test_weights_changed_after_training_are_not_registered_as_the_model(
    adapter: Path, place: Path
) -> None:
    broken = shutil.copytree(adapter, place / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = torch.zeros_like(weights[name])
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RegistryError, match="logits differ"):
        register(broken, "broken")
    model = client().get_registered_model("broken")
    assert model.aliases == {}
    version = client().get_model_version("broken", "1")
    assert version.tags["ytrainer.proof"] == "failed"
    assert "logits differ" in version.tags["ytrainer.proof_failure"]
    with pytest.raises(RegistryError, match="proof is 'failed'"):
        promote("models:/broken/1", force=True)


@pytest.mark.usefixtures("in_process_proof")
def test_a_full_model_and_a_merged_adapter_reload_as_trained(
    adapter: Path, base: Path, place: Path
) -> None:
    full = register(save_full(place / "full", base), "full")
    assert full.max_delta <= 1e-5
    merged = register(adapter, "merged", form="full")
    assert 0 < merged.max_delta <= 1e-4  # what merging changed
    assert verify(merged.uri).max_delta <= 1e-5  # what storing changed
    shutil.move(base, place / "gone")
    try:
        model, _ = load_registered(merged.uri)  # needs no base
    finally:
        shutil.move(place / "gone", base)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    with pytest.raises(RegistryError, match=r"registry\.form=adapter"):
        register(place / "full", "full", form="adapter")


@pytest.mark.usefixtures("in_process_proof")
def test_promotions_can_be_rolled_back_one_by_one(adapter: Path) -> None:
    for _ in range(3):
        register(adapter, "delivery")
    with pytest.raises(RegistryError, match="no @champion"):
        rollback("delivery")
    assert promote("models:/delivery/1").previous == 0
    assert promote("models:/delivery/3").previous == 1
    again = promote("models:/delivery/3")  # it is the champion already
    assert (again.version, again.previous) == (3, 1)
    tags = client().get_model_version("delivery", "1").tags
    assert tags["ytrainer.previous_champion_of"] == "3"
    undone = rollback("delivery")
    assert (undone.version, undone.previous) == (1, 3)
    assert int(client().get_model_version_by_alias("delivery", "champion").version) == 1
    with pytest.raises(RegistryError, match="first champion"):
        rollback("delivery")
    # To and fro: each rollback takes back one promotion, and it ends.
    for number in (2, 1):
        promote(f"models:/delivery/{number}")
    assert [rollback("delivery").version, rollback("delivery").version] == [2, 1]
    with pytest.raises(RegistryError, match="first champion"):
        rollback("delivery")


@pytest.mark.usefixtures("in_process_proof")
def test_only_what_passed_the_gate_is_promoted_unless_forced(adapter: Path) -> None:
    register(adapter, "gated", **{"ytrainer.gate": "rejected"})
    with pytest.raises(RegistryError, match="gate verdict is 'rejected'"):
        promote("models:/gated/1")
    assert "champion" not in client().get_registered_model("gated").aliases
    assert promote("models:/gated/1", force=True).version == 1


@pytest.mark.usefixtures("in_process_proof")
def test_a_caller_cannot_claim_the_proof_and_needs_no_run(adapter: Path) -> None:
    config = RegisterConfig(registry=RegistryConfig(name="claimed"))
    claims = {"ytrainer.proof": "passed", "ytrainer.data_sha256": "mine", "note": "kept"}
    broken = {**claims, "ytrainer.metric.loss": "nan"}
    version = register_model(adapter, config, run=NullRun(), tags=broken)
    tags = client().get_model_version("claimed", str(version.version)).tags
    assert tags["ytrainer.data_sha256"] == "d" * 64
    assert tags["note"] == "kept"
    assert "ytrainer.run_id" not in tags


def test_the_list_shows_versions_aliases_verdicts_and_metrics(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    tiny = next(model for model in list_models() if model.name == "tiny")
    assert [v.version for v in tiny.versions] == [1]
    row = tiny.versions[0]
    assert row.aliases == ("challenger",)
    assert (row.proof, row.gate, row.form) == ("passed", "passed", "adapter")
    assert row.metrics == {"eval_loss": 1.5}


@pytest.mark.parametrize("uri", ["tiny", "models:/tiny", "models:/tiny/1/x", "/some/folder"])
def test_a_uri_that_names_no_version_is_explained(uri: str) -> None:
    with pytest.raises(RegistryError, match=r"models:/NAME/3 or models:/NAME@champion"):
        verify(uri)


def test_an_unknown_version_is_a_registry_error(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    with pytest.raises(RegistryError, match=r"models:/tiny/99 could not be read"):
        verify("models:/tiny/99")
    with pytest.raises(RegistryError, match=r"models:/none@champion could not be read"):
        promote("models:/none@champion")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """A real `mlflow server` that proxies artifacts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store, files = place / "server.db", place / "server-files"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(files)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "no mlflow server"
            time.sleep(0.2)
    yield uri
    os.killpg(process.pid, 15)
    process.wait(30)


def test_a_server_over_http_keeps_runs_and_versions_as_the_file_does(
    server: str, adapter: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PROOF, lambda uri, config: verify(uri, tracking=config.tracking))
    where = TrackingConfig(uri=server, experiment="remote")
    config = RegisterConfig(tracking=where, registry=RegistryConfig(name="remote"))
    with open_run("register", config) as run:
        run.log({"loss": float("nan")}, step=3)
        version = register_model(adapter, config, run=run, tags=GATE_PASSED)
    assert version.max_delta <= 1e-5
    assert promote(version.uri, tracking=where).version == 1
    assert list_models(where)[0].versions[0].aliases == ("challenger", "champion")
    with pytest.raises(RegistryError, match="first champion"):
        rollback("remote", tracking=where)
    history = tracking.connect(where).get_metric_history(run.run_id, "loss")
    assert history[0].step == 3 and history[0].value != history[0].value
    assert "View run" not in "".join(capfd.readouterr())
    assert register_model(adapter, config, run=NullRun(), tags={}).version == 2


def test_a_folder_that_is_no_trained_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"ytrainer\.json") as caught:
        register(tmp_path, "nothing")
    assert not isinstance(caught.value, ConfigError)
    assert not [model for model in list_models() if model.name == "nothing"]
