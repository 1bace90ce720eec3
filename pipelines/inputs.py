"""What a training depends on, as four digests: data, config, base model, image.

They are tags of every version that the trigger has trained, so that its next call can tell
whether anything has changed, and what.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from components import IMAGE
from ytrainer_core import __version__, storage
from ytrainer_core.config import FinetuneConfig, ModelConfig, walk_fields
from ytrainer_core.config.base import get_dotted
from ytrainer_core.data.containers import container_of
from ytrainer_core.data.corpus import SPLITS
from ytrainer_core.data.hub import PREFIX as HUB
from ytrainer_core.data.reader import find_sources
from ytrainer_core.demo.resources import resolve
from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.files import sha256_file, sha256_folder, sha256_json
from ytrainer_core.registry.lineage import IMAGE_DIGEST_VARIABLE
from ytrainer_core.registry.versions import TRIGGER_PREFIX
from ytrainer_core.training.model import base_digest

PARTS = ("data", "config", "base", "image")
"""What is compared, in the order in which changes are told."""

# Details beside the digests, so that a change can be told by name.
_FILES, _KNOBS, _BASE_NAME, _IMAGE_NAME = "files", "knobs", "base_name", "image_name"
# Knobs that change nothing about the model: where it is made and told of, and its labels.
_NOT_COMPARED = ("output_dir", "tracking", "registry.tags", "cluster")
_TAG_CHARACTERS = 4500  # the least of MLflow's limits over its stores is 5000
_SHOWN_DIGEST = 16
_NAMED = 5
_REGISTERED = "models:/"  # a version, which never changes
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Inputs:
    """Digests of the four parts, and the details by which a change is told.

    files: 'split/name' -> digest. knobs: those that differ from their defaults.
    """

    digests: Mapping[str, str]
    files: Mapping[str, str]
    knobs: Mapping[str, Any]
    base: str
    image: str

    def tags(self) -> dict[str, str]:
        """The tags of a version that was made from these inputs; details that fit in a tag."""
        details = {
            _FILES: json.dumps(
                {name: digest[:_SHOWN_DIGEST] for name, digest in self.files.items()}
            ),
            _KNOBS: json.dumps(self.knobs),
            _BASE_NAME: self.base,
            _IMAGE_NAME: self.image,
        }
        fitting = {name: text for name, text in details.items() if len(text) <= _TAG_CHARACTERS}
        return {
            f"{TRIGGER_PREFIX}{name}": text for name, text in {**self.digests, **fitting}.items()
        }

    def same_as(self, tags: Mapping[str, str]) -> bool:
        """Whether a version with these tags was made from the same inputs."""
        return not self.changed_parts(tags)

    def changed_parts(self, tags: Mapping[str, str]) -> list[str]:
        """Which of the four parts differ from those of a version with these tags."""
        return [part for part in PARTS if tags.get(TRIGGER_PREFIX + part) != self.digests[part]]

    def changes(self, tags: Mapping[str, str]) -> list[str]:
        """One line a changed part, with names of files and knobs where the tags tell them."""
        told = {
            "data": lambda: _file_changes(_read(tags, _FILES), self.tags()),
            "config": lambda: _knob_changes(_read(tags, _KNOBS), self.knobs),
            "base": lambda: _replaced(tags, _BASE_NAME, self.base),
            "image": lambda: _replaced(tags, _IMAGE_NAME, self.image),
        }
        return [f"{part}: {told[part]()}" for part in self.changed_parts(tags)]


def inputs_of(config: FinetuneConfig, *, remote: bool) -> Inputs:
    """The inputs of a pipeline run. remote: the steps run elsewhere.

    Raises DataError where a source cannot be read here, ConfigError where the base cannot be named.
    """
    here = resolve(config)
    files = _data_files(here)
    knobs = _compared_knobs(config)
    base, base_sha256 = _base_identity(here.model, remote=remote)
    image = config.cluster.image or os.environ.get(IMAGE_DIGEST_VARIABLE) or IMAGE
    image = f"{image}, ytrainer {__version__}"
    digests = {
        "data": sha256_json([[name.split("/", 1)[0], found] for name, found in files.items()]),
        "config": sha256_json(_without(config.model_dump(mode="json"), _NOT_COMPARED)),
        "base": base_sha256,
        "image": sha256_json(image),
    }
    return Inputs(digests, files, knobs, base, image)


# --- data ----------------------------------------------------------------------------------------


def _data_files(config: FinetuneConfig) -> dict[str, str]:
    """'split/name' -> digest of every source, in the order in which they are read."""
    if not config.data.train:
        raise DataError("data.train names no file. Set it, e.g. data.train=rows.jsonl")
    found: dict[str, str] = {}
    faults: list[str] = []
    for split in SPLITS:
        for name in getattr(config.data, split):
            try:
                for file, digest in _digests(name).items():
                    found[f"{split}/{file}"] = digest
            except DataError as error:
                faults += error.faults
    if faults:
        raise DataError(*faults)
    return found


def _digests(name: str) -> dict[str, str]:
    """Name -> digest of what one source names; nothing remote is downloaded for it."""
    if storage.is_remote(name):
        return _in_storage(_without_rate(name))
    if name.startswith(HUB):
        return {name: _hub_digest(name)}
    return {source.name: sha256_file(source.path) for source in find_sources([name])}


def _in_storage(uri: str) -> dict[str, str]:
    """Sizes and entity tags, by which a store tells the versions of an object apart."""
    objects = {
        stored.uri: sha256_json([stored.size, stored.etag])
        for stored in storage.list_objects(uri)
        if container_of(PurePath(stored.uri)) is not None
    }
    if not objects:
        raise DataError(f"{uri}: no object there can be read. Correct the address.")
    return objects


def _hub_digest(name: str) -> str:
    """The commit of a data set of the hub, or the files of a local folder behind hub:."""
    dataset = _without_rate(name).removeprefix(HUB).split(":", 1)[0]
    if Path(dataset).is_dir():
        return sha256_json(sha256_folder(Path(dataset)))
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset).sha)
    except Exception as error:  # whatever the network and the hub raise
        raise DataError(
            f"{name}: the hub did not tell its commit ({type(error).__name__}). Correct the name, "
            "or check the connection; a private data set needs HF_TOKEN."
        ) from error


def _without_rate(name: str) -> str:
    """'s3://b/rows.jsonl@0.5' -> 's3://b/rows.jsonl'; the rate is part of the config."""
    source, _, rate = name.rpartition("@")
    return source if source and re.fullmatch(r"[\d.]+", rate) else name


# --- config, base --------------------------------------------------------------------------------


def _compared_knobs(config: FinetuneConfig) -> dict[str, Any]:
    """Dotted name -> value of every compared knob that is not at its default."""
    tree, fresh = config.model_dump(mode="json"), type(config)().model_dump(mode="json")
    return {
        name: get_dotted(tree, name)
        for name, _ in walk_fields(type(config))
        if not name.startswith(_NOT_COMPARED) and get_dotted(tree, name) != get_dotted(fresh, name)
    }


def _without(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node.pop(leaf)
    return tree


def _base_identity(model: ModelConfig, *, remote: bool) -> tuple[str, str]:
    """(name for a person, sha256) of the base model: its files, or its commit on the hub."""
    name = model.name_or_path
    if name.startswith(_REGISTERED):
        return name, sha256_json(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        digest = base_digest(folder)
        return f"{name} ({digest[:_SHOWN_DIGEST]})", digest
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not remote:
        raise ConfigError(f"{name}: no such model folder. Correct model.name_or_path.")
    if is_path:  # on the cluster's volume: only its name can be compared from here
        return name, sha256_json(name)
    commit = _commit_of(name, model.revision)
    return f"{name}@{commit}", sha256_json([name, commit])


def _commit_of(name: str, revision: str) -> str:
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(name, revision=revision or None).sha)
    except Exception as error:  # whatever the network and the hub raise
        raise ConfigError(
            f"model.name_or_path '{name}': the hub did not tell its commit "
            f"({type(error).__name__}). Check spelling and network, or pin model.revision to a "
            "commit (40 hex digits), which needs no question."
        ) from error


# --- what changed, in words ----------------------------------------------------------------------


def _read(tags: Mapping[str, str], name: str) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(tags[TRIGGER_PREFIX + name])
        return told
    except (KeyError, ValueError):
        return None


def _file_changes(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    after = _read(now, _FILES)
    if before is None or after is None:
        return "the files are not those of that version"
    kinds = {
        "new": [name for name in after if name not in before],
        "gone": [name for name in before if name not in after],
        "changed": [name for name in after if before.get(name, after[name]) != after[name]],
    }
    told = [f"{kind} {_listed(names)}" for kind, names in kinds.items() if names]
    return "; ".join(told) or "the same files in another order"


def _knob_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    if before is None:
        return "the knobs are not those of that version"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return "a default changed with the version of ytrainer"
    return _listed([f"{n} {_shown(before, n)} -> {_shown(now, n)}" for n in names])


def _shown(knobs: Mapping[str, Any], name: str) -> str:
    return json.dumps(knobs[name], ensure_ascii=False) if name in knobs else "default"


def _replaced(tags: Mapping[str, str], name: str, now: str) -> str:
    return f"{tags.get(TRIGGER_PREFIX + name, 'unknown')} -> {now}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
