"""Which trained model a training went on from, so that lineage has no gap.

A folder that was fetched from the registry says so in `registry.json`; any other one of ours is
known by the digest of what makes it up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.config import ModelConfig
from ytrainer_core.errors import CheckpointError
from ytrainer_core.files import sha256_file, sha256_json
from ytrainer_core.training.model import CARD_NAME, read_card

ORIGIN_NAME = "registry.json"
"""File beside a fetched model: {"uri": "models:/NAME/3", "files": {name: sha256}}."""

_IDENTITY_PATTERNS = ("*.safetensors", "adapter_config.json", "config.json", CARD_NAME)
"""The tokenizer is left out: MLflow writes its files anew."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The model whose weights a training went on from.

    uri: models:/NAME/3 where it came from the registry, else empty. sha256: of its files
    (`trained_digest`); empty where training began at a base model.
    """

    uri: str = ""
    sha256: str = ""


def parent_of(config: ModelConfig) -> Parent:
    """The parent of a training with this config: model.init_from, or a tuned model as its base.

    A base model that we made from scratch is no parent but a base, which the card names itself.
    """
    for name, is_base in ((config.init_from, False), (config.name_or_path, True)):
        folder = Path(name).expanduser()
        if not name or not (folder / CARD_NAME).is_file():
            continue
        if is_base and not read_card(folder).base.name_or_path:
            continue
        return Parent(fetched_from(folder), trained_digest(folder))
    return Parent()


def fetched_from(folder: Path) -> str:
    """URI of the registered version that a folder was fetched as; empty for any other folder."""
    path = folder / ORIGIN_NAME
    if not path.exists():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["uri"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is damaged, so nobody can tell which version {folder} is. Delete the folder; "
            "it is fetched again."
        ) from error


def trained_digest(folder: Path) -> str:
    """Identity of a trained model folder: sha256 over its weights, configs, card and probe.

    The same before registration and after it was fetched again.
    """
    files = {file for pattern in _IDENTITY_PATTERNS for file in folder.glob(pattern)}
    return sha256_json({file.name: sha256_file(file) for file in files})
