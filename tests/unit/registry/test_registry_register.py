"""What a registered version promises: it is the trained model, or nothing points at it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from registry_examples import GATE_PASSED, save_base, save_large
from safetensors.torch import load_file, save_file

from ytrainer_core import registry, tracking
from ytrainer_core.config import RegisterConfig, RegistryConfig, TrackingConfig
from ytrainer_core.errors import ConfigError, RegistryError
from ytrainer_core.files import home, sha256_json
from ytrainer_core.registry import (
    fetch_registered,
    list_models,
    load_registered,
    promote,
    register_model,
    verify,
)
from ytrainer_core.tracking import NullRun, open_pipeline_run, open_run
from ytrainer_core.training.model import load_trained, read_card
from ytrainer_core.training.parents import trained_digest

Register = Callable[..., registry.Version]


@pytest.fixture(scope="module")
def proved_in_a_fresh_process(adapter: Path) -> registry.Version:
    """Version 1 of 'tiny', registered as a user does it."""
    config = RegisterConfig(registry=RegistryConfig(name="tiny"))
    with open_run("register", config) as run:
        return register_model(adapter, config, run=run, tags=GATE_PASSED)


def stored_folder(client: Any, version: registry.Version) -> Path:
    return Path(client.get_model_version_download_uri(version.name, str(version.version)))


def test_an_adapter_reloads_as_it_was_trained_and_is_the_challenger(
    proved_in_a_fresh_process: registry.Version, client: Any, base: Path
) -> None:
    version = proved_in_a_fresh_process
    assert (version.version, version.uri) == (1, "models:/tiny/1")
    assert 0 <= version.max_delta <= 1e-5
    found = client.get_model_version_by_alias("tiny", "challenger")
    tags = found.tags
    assert int(found.version) == 1
    assert tags["ytrainer.proof"] == "passed"
    assert tags["ytrainer.form"] == "adapter"
    assert tags["ytrainer.base"] == str(base)
    assert tags["ytrainer.data_sha256"] == "d" * 64
    assert tags["ytrainer.git_sha"] == "c0ffee"
    assert tags["ytrainer.gate"] == "passed"
    logged = client.get_logged_model(tags["ytrainer.model_id"])
    assert logged.source_run_id == found.run_id == tags["ytrainer.run_id"]
    assert [(m.key, m.value) for m in logged.metrics] == [("eval_loss", 1.5)]


def test_only_the_adapter_is_stored_byte_for_byte(
    proved_in_a_fresh_process: registry.Version, adapter: Path, client: Any
) -> None:
    stored = stored_folder(client, proved_in_a_fresh_process)
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
def test_full_and_merged_models_are_fetched_as_full_models(
    adapter: Path, full: Path, register: Register
) -> None:
    registered = register(full, "whole")
    fetched = fetch_registered(registered.uri)
    assert (fetched / "model.safetensors").read_bytes() == (full / "model.safetensors").read_bytes()
    merged = fetch_registered(register(adapter, "whole", form="full").uri)
    for folder in (fetched, merged):
        model, tokenizer, card = load_trained(folder)
        assert card.kind == "full" and tokenizer("a")["input_ids"]
        assert type(model).__name__ == "Qwen3ForCausalLM"


def test_a_fetched_copy_is_used_again_while_it_is_whole(
    proved_in_a_fresh_process: registry.Version,
) -> None:
    fetched = fetch_registered(proved_in_a_fresh_process.uri)
    before = (fetched / "ytrainer.json").stat().st_ino
    assert (fetch_registered("models:/tiny@challenger") / "ytrainer.json").stat().st_ino == before
    (fetched / "adapter_model.safetensors").write_bytes(b"cut")
    again = fetch_registered(proved_in_a_fresh_process.uri)
    assert (again / "ytrainer.json").stat().st_ino != before
    assert json.loads((again / "registry.json").read_text()) == {"uri": "models:/tiny/1"}
    assert load_file(again / "adapter_model.safetensors")


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
    proved_in_a_fresh_process: registry.Version, client: Any
) -> None:
    shutil.rmtree(home() / "cache" / "models", ignore_errors=True)  # a whole copy would do
    file = stored_folder(client, proved_in_a_fresh_process) / "peft" / "adapter_model.safetensors"
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
    proved_in_a_fresh_process: registry.Version, client: Any
) -> None:
    stored = stored_folder(client, proved_in_a_fresh_process)
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
    adapter: Path, place: Path, client: Any, register: Register
) -> None:
    broken = shutil.copytree(adapter, place / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = torch.zeros_like(weights[name])
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RegistryError, match="logits differ"):
        register(broken, "broken")
    model = client.get_registered_model("broken")
    assert model.aliases == {}
    version = client.get_model_version("broken", "1")
    assert version.tags["ytrainer.proof"] == "failed"
    assert "logits differ" in version.tags["ytrainer.proof_failure"]
    with pytest.raises(RegistryError, match="proof is 'failed'"):
        promote("models:/broken/1", force=True)


@pytest.mark.usefixtures("in_process_proof")
def test_a_full_model_and_a_merged_adapter_reload_as_trained(
    adapter: Path, base: Path, full: Path, place: Path, register: Register
) -> None:
    assert register(full, "full").max_delta <= 1e-5
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
        register(full, "full", form="adapter")


@pytest.mark.usefixtures("in_process_proof")
def test_a_caller_cannot_claim_the_proof_and_needs_no_run(adapter: Path, client: Any) -> None:
    config = RegisterConfig(registry=RegistryConfig(name="claimed"))
    claims = {"ytrainer.proof": "passed", "ytrainer.data_sha256": "mine", "note": "kept"}
    broken = {**claims, "ytrainer.metric.loss": "nan"}
    version = register_model(adapter, config, run=NullRun(), tags=broken)
    tags = client.get_model_version("claimed", str(version.version)).tags
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


def test_a_folder_that_is_no_trained_model_is_refused(tmp_path: Path, register: Register) -> None:
    with pytest.raises(Exception, match=r"ytrainer\.json") as caught:
        register(tmp_path, "nothing")
    assert not isinstance(caught.value, ConfigError)
    assert not [model for model in list_models() if model.name == "nothing"]


@pytest.mark.slow
def test_a_full_model_is_registered_without_being_read_into_memory(
    full: Path, base: Path, tmp_path: Path
) -> None:
    large = save_large(tmp_path / "large", base)
    size = (large / "model.safetensors").stat().st_size / 2**20
    worker = Path(__file__).with_name("memory_worker.py")
    command = [sys.executable, str(worker), str(full), str(large)]
    done = subprocess.run(
        command,
        env={**os.environ, "YTRAINER_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert size > 90
    assert float(done.stdout.splitlines()[-1]) < size / 3


# --- what a version carries ----------------------------------------------------------------------


@pytest.mark.usefixtures("in_process_proof")
def test_a_version_says_what_it_came_from(
    adapter: Path, register: Register, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YTRAINER_IMAGE_DIGEST", "sha256:cafe")
    config = RegisterConfig(registry=RegistryConfig(name="traced"))
    with open_pipeline_run("finetune", config) as pipeline:
        told, own = {"ytrainer.judged_against": "none"}, "team=support, ytrainer.trigger.data=abc"
        version = register(adapter, "traced", told, tags=own)
    tags = client.get_model_version("traced", str(version.version)).tags
    assert tags["ytrainer.image_digest"] == "sha256:cafe"
    assert tags["ytrainer.pipeline_run_id"] == pipeline.run_id != ""
    assert tags["ytrainer.judged_against"] == "none"
    assert (tags["team"], tags["ytrainer.trigger.data"]) == ("support", "abc")
    assert tags["ytrainer.model_sha256"] == trained_digest(adapter)
    assert "ytrainer.parent" not in tags and "ytrainer.training_run_url" not in tags
    stored = json.loads((stored_folder(client, version) / "training_config.json").read_text())
    assert stored == read_card(adapter).config
    assert tags["ytrainer.config_sha256"] == sha256_json(stored)


@pytest.mark.usefixtures("in_process_proof")
def test_the_pipeline_run_is_kubeflows_where_the_parent_run_tells_it(
    adapter: Path, register: Register, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pipeline_run("finetune", RegisterConfig()) as pipeline:
        client.set_tag(pipeline.run_id, "kfp.pipeline_run_id", "kfp-7")
        injected = register(adapter, "on-cluster")
    monkeypatch.setenv("KFP_RUN_ID", "kfp-8")
    named = register(adapter, "on-cluster", told={**GATE_PASSED, "n": "2"})
    of = [client.get_model_version("on-cluster", str(v.version)).tags for v in (injected, named)]
    assert [tags["ytrainer.pipeline_run_id"] for tags in of] == ["kfp-7", "kfp-8"]


def test_a_config_cannot_set_ytrainers_own_tags(adapter: Path, register: Register) -> None:
    with pytest.raises(ConfigError, match=r"registry\.tags: 'ytrainer\.gate' is set by ytrainer"):
        register(adapter, "forged", tags="ytrainer.gate=passed")
    assert not [model for model in list_models() if model.name == "forged"]


@pytest.mark.usefixtures("in_process_proof")
def test_the_same_model_with_the_same_verdict_is_registered_once(
    adapter: Path, register: Register, client: Any
) -> None:
    judged = {"ytrainer.gate": "passed", "ytrainer.judged_against": "none"}
    first = register(adapter, "once", told={**judged, "ytrainer.metric.loss": "1.50"})
    second = register(adapter, "once", told={**judged, "ytrainer.metric.loss": "1.51"})
    assert (first.is_new, second.is_new) == (True, False)
    assert second.uri == first.uri and second.max_delta <= 1e-5
    assert register(adapter, "once", told={"ytrainer.gate": "rejected"}).version == 2
    against = {**judged, "ytrainer.judged_against": "models:/once/1"}
    assert register(adapter, "once", told=against).version == 3
    assert register(adapter, "once", told=judged, form="full").version == 4
    assert register(adapter, "once", told={"note": "no verdict"}).version == 5
    assert register(adapter, "once", told=judged).version == 1
    assert int(client.get_model_version_by_alias("once", "challenger").version) == 1


@pytest.mark.usefixtures("in_process_proof")
def test_a_version_whose_files_were_damaged_is_registered_anew(
    adapter: Path, register: Register, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = register(adapter, "damaged")
    (stored_folder(client, first) / "ytrainer.json").unlink()
    second = register(adapter, "damaged")
    assert (second.version, second.is_new) == (2, True)
    assert "ytrainer.json is missing" in caplog.text
    assert verify("models:/damaged@challenger").uri == "models:/damaged@challenger"


@pytest.mark.usefixtures("in_process_proof")
def test_a_version_whose_proof_was_cut_off_is_no_registration(
    adapter: Path, register: Register, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ytrainer_core.registry.register._prove", killed)
        with pytest.raises(KeyboardInterrupt):
            register(adapter, "cut-off")
    assert client.get_model_version("cut-off", "1").tags["ytrainer.proof"] == "pending"
    assert register(adapter, "cut-off").version == 2
    with pytest.raises(RegistryError, match="proof is 'pending'"):
        promote("models:/cut-off/1")
