"""Which models are evaluated, and how they come into memory: one base at a time."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ytrainer_core.config import EvaluateStageConfig, ModelConfig
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import sha256_file, sha256_json
from ytrainer_core.registry import fetch_registered
from ytrainer_core.registry.client import find_version, registry_client, registry_errors
from ytrainer_core.registry.versions import uri_of
from ytrainer_core.training.model import (
    BASE_PATH_VARIABLE,
    CARD_NAME,
    PROBE_NAME,
    ModelCard,
    base_digest,
    continue_adapter,
    load_model,
    locate,
    read_card,
)

_WEIGHTS = ("*.safetensors", "adapter_config.json", "config.json")
"""Files of a trained model folder that make it the model it is, beside its base."""


@dataclass(frozen=True)
class Contestant:
    """A model that is measured.

    name: for people. weights: folder that from_pretrained() reads, the base's for an adapter.
    adapter: its folder, or None. dtype: precision it is computed in. sha256: of all that its
    answers depend on. tokenizer: folder.
    """

    name: str
    weights: Path
    adapter: Path | None
    dtype: str
    sha256: str
    tokenizer: Path


class Contestants:
    """Who takes part: the challenger, the model it was tuned from, and the champion."""

    def __init__(self, folder: Path, config: EvaluateStageConfig) -> None:
        self._folder = folder
        self._config = config
        self._digests: dict[Path, str] = {}

    def challenger(self) -> Contestant:
        """The trained model that is judged."""
        return self._trained(str(self._folder), self._folder)

    def base(self) -> Contestant:
        """The model that the challenger was tuned from, in the same precision.

        One made from scratch is compared with model.name_or_path.
        """
        card = read_card(self._folder)
        weights = self._base_folder(self._folder, card)
        name = card.base.name_or_path or self._config.model.name_or_path
        of = [self._base_digest(weights), card.dtype, self._config.model.quantization]
        return Contestant(name, weights, None, card.dtype, sha256_json(of), self._folder)

    def champion(self) -> tuple[Contestant | None, str, str]:
        """(model that the challenger must not fall behind, its models:/ URI, why there is none).

        The URI is empty for a folder and where there is none. Raises RegistryError where the
        registry cannot be read, ConfigError for a folder that is no model of ours.
        """
        name = self._config.evaluate.champion
        if not name:
            return None, "", "No champion was compared: evaluate.champion is empty."
        if name.startswith("@"):
            name, why = _held_by(name, self._config)
            if not name:
                return None, "", f"No champion was compared: {why}."
        if name.startswith("models:/"):
            version = find_version(registry_client(self._config.tracking), name)
            uri = uri_of(version.name, version.version)
            folder = fetch_registered(uri, tracking=self._config.tracking)
            return self._trained(uri, folder), uri, ""
        folder = Path(name).expanduser()
        if not (folder / CARD_NAME).is_file():
            raise ConfigError(
                f"evaluate.champion: {folder} holds no model that ytrainer trained (no "
                f"{CARD_NAME}). Give a 'model' folder, models:/NAME/3 or @champion."
            )
        return self._trained(name, folder.absolute()), "", ""

    def _trained(self, name: str, folder: Path) -> Contestant:
        card = read_card(folder)
        files = {
            file.name: sha256_file(file)
            for pattern in _WEIGHTS
            for file in sorted(folder.glob(pattern))
            if file.name != PROBE_NAME
        }
        of: list[Any] = [files, card.dtype, self._config.model.quantization]
        if card.kind != "adapter":
            return Contestant(name, folder, None, card.dtype, sha256_json(of), folder)
        weights = self._base_folder(folder, card)
        digest = sha256_json([*of, card.base.sha256])
        return Contestant(name, weights, folder, card.dtype, digest, folder)

    def _base_folder(self, folder: Path, card: ModelCard) -> Path:
        """Where the base of a trained model lies, its digest compared with the card's."""
        if not card.base.name_or_path:
            return locate(self._config.model)
        name = os.environ.get(BASE_PATH_VARIABLE) or card.base.name_or_path
        place = {"name_or_path": name, "revision": card.base.revision}
        base = locate(self._config.model.model_copy(update=place))
        if self._base_digest(base) != card.base.sha256:
            raise CheckpointError(
                f"{base}: is not the base model that {folder} was trained on (sha256 differs). "
                f"Set {BASE_PATH_VARIABLE} to the folder of the original base."
            )
        return base

    def _base_digest(self, folder: Path) -> str:
        """base_digest(), read once: base, challenger and champion ask for the same weights."""
        if folder not in self._digests:
            self._digests[folder] = base_digest(folder)
        return self._digests[folder]


class Memory:
    """At most one base in memory, with at most one adapter on it."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._key: tuple[Path, str] | None = None
        self._model: Any = None

    @contextmanager
    def holding(self, contestant: Contestant) -> Iterator[Any]:
        """The model, in eval mode; a base that is in memory already stays there."""
        key = (contestant.weights, contestant.dtype)
        if key != self._key:
            self.forget()
            precise = self._config.model_copy(update={"dtype": contestant.dtype})
            self._model = load_model(contestant.weights, precise).eval()
            self._key = key
        if contestant.adapter is None:
            yield self._model
            return
        adapted = continue_adapter(self._model, contestant.adapter).eval()
        try:
            yield adapted
        finally:
            self._model = adapted.unload()

    def forget(self) -> None:
        """Free the memory before another base comes in."""
        self._model, self._key = None, None
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _held_by(alias: str, config: EvaluateStageConfig) -> tuple[str, str]:
    """(URI of the version that holds an alias of registry.name, why there is none)."""
    name = config.registry.name
    if not config.tracking.enabled:
        return "", "tracking.enabled=false, so no registry is read"
    if importlib.util.find_spec("mlflow") is None:
        return "", "mlflow is not installed, so no registry is read"
    client = registry_client(config.tracking)
    with registry_errors(f"the champion of '{name}' could not be looked up"):
        found = client.search_registered_models(filter_string=f"name='{name}'")
    version = found[0].aliases.get(alias.removeprefix("@")) if found else None
    if version is None:
        return "", f"no version of '{name}' is {alias} yet"
    return uri_of(name, version), ""
