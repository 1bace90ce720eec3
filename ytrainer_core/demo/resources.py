"""What the names demo:train, demo:general, demo:conversations, demo:base … stand for.

All of it is generated on first use below home()/demo and kept as long as what it
was made from (generator, Python version, recipe) has not changed.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from ytrainer_core.config import PretrainConfig, RegisterConfig, StageConfig, TrackingConfig
from ytrainer_core.config.base import Section
from ytrainer_core.data.corpus import SPLITS
from ytrainer_core.demo import conversations, corpus, general, preferences, versions
from ytrainer_core.demo.recipe import PRETRAIN
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home, sha256_file, sha256_json, write_json

PREFIX = "demo:"
_FILES = {
    "demo:train": "train.json",
    "demo:validation": "validation.json",
    "demo:planted": "planted.json",
    "demo:general": "general_validation.jsonl",
    "demo:pretrain": "general_train.jsonl",
    "demo:conversations": "conversations.jsonl",
    "demo:preferences": "preferences.jsonl",
    "demo:v1": "v1.json",
    "demo:v2": "v2.json",
    "demo:v3": "v3.json",
}
_BASE = "demo:base"
_STAMP = "made-from.json"


_WITHOUT_BASE = (PretrainConfig, RegisterConfig)
"""Stages that read the model section but load no base by its name."""

C = TypeVar("C", bound=StageConfig)


def resolve(config: C) -> C:
    """Replace demo: names by paths, making what is not there yet."""
    update: dict[str, Section] = {}
    data = getattr(config, "data", None)
    if data is not None:
        update["data"] = data.model_copy(
            update={split: tuple(locate(name) for name in getattr(data, split)) for split in SPLITS}
        )
    model = getattr(config, "model", None)
    if model is not None and not isinstance(config, _WITHOUT_BASE):
        path = locate(model.name_or_path, config.tracking)
        update["model"] = model.model_copy(update={"name_or_path": path})
    return config.model_copy(update=update)


def locate(name: str, tracking: TrackingConfig | None = None) -> str:
    """Path behind a demo: name; any other name is given back as it is."""
    if not name.startswith(PREFIX):
        return name
    if name == _BASE:
        return str(make_base(tracking or TrackingConfig()))
    known, at, rate = name.partition("@")
    if known not in _FILES:
        made = ", ".join([_BASE, *_FILES])
        raise ConfigError(f"'{name}': the demo makes no such thing. It makes: {made}.")
    return f"{make_corpora() / _FILES[known]}{at}{rate}"


def make_corpora() -> Path:
    """Folder of the generated corpora, made anew where the generator has changed."""
    folder = home() / "demo"
    made_from = {
        "python": platform.python_version(),
        "generators": [
            sha256_file(Path(module.__file__ or ""))
            for module in (corpus, general, conversations, preferences, versions)
        ],
    }
    if _is_stamped(folder, made_from):
        return folder
    corpus.write_domain_corpus(folder)
    general.write_general_corpus(folder)
    conversations.write_conversations(folder)
    preferences.write_preferences(folder)
    versions.write_versions(folder)
    write_json(folder / _STAMP, made_from)
    return folder


def make_base(tracking: TrackingConfig) -> Path:
    """Folder of the demo's base model, pre-trained now where there is none of this recipe."""
    from ytrainer_core.stages.run import run_stage

    corpora = make_corpora()
    config = PRETRAIN.model_copy(
        update={
            "tracking": tracking,
            "data": PRETRAIN.data.model_copy(
                update={"train": (str(corpora / _FILES["demo:pretrain"]),)}
            ),
        }
    )
    made_from = {
        "recipe": sha256_json(PRETRAIN.model_dump(mode="json", exclude={"tracking"})),
        "text": sha256_file(corpora / _FILES["demo:pretrain"]),
    }
    folder = home() / "demo" / "base"
    if not _is_stamped(folder, made_from):
        print("making the demo's base model: about a minute on 2 cores", file=sys.stderr)
        outputs = {
            "model": folder / "model",
            "report": folder / "report.html",
            "epochs": folder / "epochs",
        }
        run_stage("pretrain", config, outputs=outputs)
        write_json(folder / _STAMP, made_from)
    return folder / "model"


def _is_stamped(folder: Path, made_from: Mapping[str, object]) -> bool:
    try:
        return bool(json.loads((folder / _STAMP).read_text(encoding="utf-8")) == made_from)
    except (OSError, ValueError):
        return False
