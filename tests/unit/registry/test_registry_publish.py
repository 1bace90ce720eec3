"""A proved version is copied to where others load it; what is there is never overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from registry_examples import probe_ids, save_full
from transformers import AutoModelForCausalLM, AutoTokenizer

from ytrainer_core import registry
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import sha256_file, sha256_folder
from ytrainer_core.registry import load_registered, publish
from ytrainer_core.training.model import load_trained

pytestmark = pytest.mark.usefixtures("in_process_proof")

Register = Callable[..., registry.Version]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=probe_ids()).logits


def test_an_adapter_is_published_as_peft_reads_it(
    adapter: Path, register: Register, tmp_path: Path, client: Any
) -> None:
    version = register(adapter, "hub", publish_to=str(tmp_path))
    folder = tmp_path / "hub" / "1"
    assert version.published == str(folder)
    assert client.get_model_version("hub", "1").tags["ytrainer.published"] == str(folder)
    wanted, _ = load_registered("models:/hub/1")
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(wanted))
    assert AutoTokenizer.from_pretrained(folder)("abc")["input_ids"]
    assert load_trained(folder)[2].kind == "adapter"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == "models:/hub/1"
    files = sha256_folder(folder)
    files.pop("manifest.json")
    assert manifest["files"] == files and "adapter_model.safetensors" in files
    assert "| eval_loss | 1.5 |" in (folder / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["1"], "nothing half-made is left"


@pytest.mark.parametrize("form", ["auto", "full"])
def test_full_and_merged_models_are_published_as_transformers_reads_them(
    form: str, adapter: Path, full: Path, register: Register, tmp_path: Path
) -> None:
    trained = full if form == "auto" else adapter
    version = register(trained, f"hub-{form}", form=form, publish_to=str(tmp_path))
    loaded = AutoModelForCausalLM.from_pretrained(version.published)
    wanted, _ = load_registered(version.uri)
    assert torch.equal(logits(loaded), logits(wanted))
    assert AutoTokenizer.from_pretrained(version.published)("abc")["input_ids"]


def test_done_again_it_changes_nothing_and_a_changed_copy_is_left_alone(
    adapter: Path, register: Register, tmp_path: Path
) -> None:
    first = register(adapter, "again", publish_to=str(tmp_path))
    folder = Path(first.published)
    inode = (folder / "manifest.json").stat().st_ino
    assert register(adapter, "again", publish_to=str(tmp_path)).published == first.published
    assert (folder / "manifest.json").stat().st_ino == inode
    (folder / "README.md").write_text("mine")
    with pytest.raises(RegistryError, match=r"again/1: holds other files .*publish_to"):
        publish("models:/again/1", str(tmp_path))
    assert (folder / "README.md").read_text() == "mine"


def test_another_model_at_the_place_is_never_overwritten_and_the_version_is_kept(
    adapter: Path, register: Register, tmp_path: Path, client: Any
) -> None:
    there = tmp_path / "taken" / "1"
    there.mkdir(parents=True)
    (there / "model.safetensors").write_bytes(b"somebody else's")
    with pytest.raises(RegistryError, match="nothing is ever overwritten"):
        register(adapter, "taken", publish_to=str(tmp_path))
    assert [file.name for file in there.iterdir()] == ["model.safetensors"]
    found = client.get_model_version_by_alias("taken", "challenger")
    assert found.tags["ytrainer.proof"] == "passed" and "ytrainer.published" not in found.tags
    again = register(adapter, "taken", publish_to=str(tmp_path / "elsewhere"))
    assert again.version == 1 and Path(again.published).is_dir()


def test_what_the_gate_rejected_is_not_published(
    adapter: Path, register: Register, tmp_path: Path
) -> None:
    rejected = {"ytrainer.gate": "rejected"}
    assert register(adapter, "bad", rejected, publish_to=str(tmp_path / "hub")).published == ""
    assert not (tmp_path / "hub").exists()


def test_damaged_files_are_not_published(
    adapter: Path, register: Register, tmp_path: Path, client: Any
) -> None:
    register(adapter, "cracked")
    stored = Path(client.get_model_version_download_uri("cracked", "1"))
    (stored / "ytrainer.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"ytrainer\.json .*changed or damaged"):
        publish("models:/cracked/1", str(tmp_path / "hub"))
    assert not (tmp_path / "hub").exists()


# --- s3:// ---------------------------------------------------------------------------------------


def keys(bucket: Any, prefix: str) -> dict[str, Any]:
    return {each.key.removeprefix(prefix): each for each in bucket.objects.filter(Prefix=prefix)}


def test_a_prefix_in_s3_holds_the_checksummed_files_and_the_manifest_last(
    bucket: Any, adapter: Path, register: Register
) -> None:
    version = register(adapter, "remote", publish_to=f"s3://{bucket.name}/hub/")
    assert version.published == f"s3://{bucket.name}/hub/remote/1"
    stored = keys(bucket, "hub/remote/1/")
    manifest = json.loads(stored["manifest.json"].get()["Body"].read())
    assert set(manifest["files"]) == set(stored) - {"manifest.json"}
    weights = stored["adapter_model.safetensors"].Object()
    digest = sha256_file(adapter / "adapter_model.safetensors")
    assert weights.metadata["sha256"] == digest == manifest["files"]["adapter_model.safetensors"]
    last = stored["manifest.json"].last_modified
    assert all(each.last_modified <= last for each in stored.values())
    before = {name: each.last_modified for name, each in stored.items()}
    register(adapter, "remote", publish_to=f"s3://{bucket.name}/hub")
    assert {n: e.last_modified for n, e in keys(bucket, "hub/remote/1/").items()} == before


def test_a_publication_that_was_cut_off_is_gone_on_with(
    bucket: Any, adapter: Path, register: Register
) -> None:
    register(adapter, "cut", publish_to=f"s3://{bucket.name}/hub")
    whole = set(keys(bucket, "hub/cut/1/"))
    for name in ("manifest.json", "adapter_model.safetensors"):
        bucket.Object(f"hub/cut/1/{name}").delete()
    register(adapter, "cut", publish_to=f"s3://{bucket.name}/hub")
    assert set(keys(bucket, "hub/cut/1/")) == whole


@pytest.mark.parametrize("name", ["README.md", "foreign.bin"])
def test_other_objects_at_the_prefix_are_never_overwritten(
    name: str, bucket: Any, base: Path, register: Register, tmp_path: Path
) -> None:
    model = f"s3-{name.partition('.')[0]}"
    bucket.put_object(Key=f"hub/{model}/1/{name}", Body=b"somebody else's")
    with pytest.raises(RegistryError, match="nothing is ever overwritten"):
        register(save_full(tmp_path / "f", base), model, publish_to=f"s3://{bucket.name}/hub")
    stored = keys(bucket, f"hub/{model}/1/")
    assert list(stored) == [name] and stored[name].get()["Body"].read() == b"somebody else's"


def test_a_bucket_that_is_not_there_is_named_and_can_be_made_up_for(
    bucket: Any, adapter: Path, register: Register
) -> None:
    with pytest.raises(RegistryError, match=r"could not be published to s3://nowhere/x") as told:
        register(adapter, "nowhere", publish_to="s3://nowhere/x")
    assert "models:/nowhere/1 is registered" in str(told.value)
    again = register(adapter, "nowhere", publish_to=f"s3://{bucket.name}/x")
    assert again.version == 1 and again.published == f"s3://{bucket.name}/x/nowhere/1"
