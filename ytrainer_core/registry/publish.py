"""A proved version's files, copied to where others load them: a folder or a prefix in S3.

What is there is what from_pretrained() of transformers or peft reads, with the tokenizer, the card
and a README. The manifest, with every file's sha256, comes last: without it nothing is published.
Nothing that is there already is ever overwritten.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ytrainer_core import storage
from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import DataError, RegistryError
from ytrainer_core.files import atomic_folder, home, sha256_folder, write_json, write_text
from ytrainer_core.registry.client import downloaded, registry_client, registry_errors
from ytrainer_core.registry.folders import copy_flat
from ytrainer_core.registry.versions import PUBLISHED_TAG, metrics_of, uri_of
from ytrainer_core.verify import BASE_TAG, FORM_TAG, check_files

MANIFEST_NAME = "manifest.json"


def publish(uri: str, place: str, *, tracking: TrackingConfig | None = None) -> str:
    """Copy a version to PLACE/NAME/VERSION, a folder or s3:// prefix; returns that address.

    The same files there already: nothing happens. Others: RegistryError, and nothing is changed.
    """
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".publish.") as scratch:
        flat = Path(scratch) / "files"
        flat.mkdir()
        with downloaded(uri, tracking) as (version, folder):
            check_files(uri, version.tags, folder)
            copy_flat(folder, flat)
        name, number = str(version.name), str(version.version)
        write_text(flat / "README.md", _readme(version))
        manifest = {"version": uri_of(name, number), "files": sha256_folder(flat)}
        with registry_errors(f"{uri} is registered, but could not be published to {place}"):
            if storage.is_remote(place):
                target = f"{place.rstrip('/')}/{name}/{number}"
                _to_bucket(flat, manifest, target)
            else:
                target = str(Path(place).expanduser().absolute() / name / number)
                _to_folder(flat, manifest, Path(target))
    with registry_errors(f"{uri} is published at {target}, but could not be tagged so"):
        registry_client(tracking).set_model_version_tag(name, number, PUBLISHED_TAG, target)
    return target


def _to_folder(files: Path, manifest: dict[str, Any], target: Path) -> None:
    ready = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        with atomic_folder(ready) as scratch:
            shutil.copytree(files, scratch, dirs_exist_ok=True)
            write_json(scratch / MANIFEST_NAME, manifest)
        try:
            ready.rename(target)  # fails where somebody else has filled it by now
            return
        except OSError:
            if not target.exists():
                raise
        finally:
            shutil.rmtree(ready, ignore_errors=True)
    found = sha256_folder(target) if target.is_dir() else {}
    listed = found.pop(MANIFEST_NAME, None)
    if listed is None or found != manifest["files"]:
        raise _collision(str(target), manifest["version"])


def _to_bucket(files: Path, manifest: dict[str, Any], target: str) -> None:
    try:
        there = {stored.uri.removeprefix(f"{target}/") for stored in storage.list_objects(target)}
        if there:
            with tempfile.TemporaryDirectory(dir=home(), prefix=".publish.") as scratch:
                storage.download_folder(target, Path(scratch))
                found = sha256_folder(Path(scratch))
            complete = found.pop(MANIFEST_NAME, None) is not None
            if complete and found == manifest["files"]:
                return
            # what a publication that was cut off has left is ours, and is gone on with
            if complete or not found.items() <= manifest["files"].items():
                raise _collision(target, manifest["version"])
        storage.upload_folder(files, target)
        with tempfile.TemporaryDirectory(dir=home(), prefix=".publish.") as scratch:
            write_json(Path(scratch) / MANIFEST_NAME, manifest)
            storage.put(Path(scratch) / MANIFEST_NAME, f"{target}/{MANIFEST_NAME}")
    except DataError as error:
        raise RegistryError(
            f"{manifest['version']} is registered, but could not be published to {target}.",
            *error.faults,
        ) from error


def _collision(target: str, version: str) -> RegistryError:
    return RegistryError(
        f"{target}: holds other files than {version}, and nothing is ever overwritten. Another "
        "registry publishes there, or somebody changed them: set registry.publish_to to another "
        "place, or move these away, and register the model again; the version itself is kept."
    )


def _readme(version: Any) -> str:
    """A model card: what the model is and how to load it. Same version, same bytes."""
    tags = version.tags
    is_adapter = tags[FORM_TAG] == "adapter"
    base = tags.get(BASE_TAG, "")
    head = {"library_name": "peft" if is_adapter else "transformers", "tags": ["ytrainer"]}
    if base and not base.startswith(("/", ".")):
        head["base_model"] = base
    front = "".join(f"{name}: {json.dumps(value)}\n" for name, value in head.items())
    loader = (
        "from peft import AutoPeftModelForCausalLM\n\n"
        "model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)"
        if is_adapter
        else "from transformers import AutoModelForCausalLM\n\n"
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)"
    )
    measured = sorted(metrics_of(tags).items())
    metrics = "".join(f"| {name} | {value:.4g} |\n" for name, value in measured)
    table = f"\n| Metric | Value |\n|---|---|\n{metrics}" if metrics else ""
    return (
        f"---\n{front}---\n\n# {version.name}, version {version.version}\n\n"
        f"Trained by ytrainer on {base or 'nothing before it'}; `ytrainer.json` says from what, "
        f"`{MANIFEST_NAME}` holds every file's sha256.\n{table}\n"
        f"```python\n{loader}\n```\n"
    )
