"""A version comes back: checked, proved, loaded, or as the folder that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry.client import downloaded, find_version, registry_client
from ytrainer_core.registry.folders import keep_copy, kept_copy
from ytrainer_core.registry.versions import uri_of
from ytrainer_core.verify import (
    BASE_SHA256_TAG,
    FILES_TAG,
    Verification,
    check_files,
    checked_base,
    compare_probe,
)


def verify(
    uri: str,
    *,
    tracking: TrackingConfig | None = None,
    base_path: str = "",
    trust_remote_code: bool = False,
) -> Verification:
    """Prove that what lies in the registry is the model that was trained.

    uri: models:/NAME/3 or models:/NAME@champion. base_path (or YTRAINER_BASE_PATH):
    where the base model lies now. Files first, then the base, then the logits.
    Raises RegistryError naming the first of these that differs.
    """
    with downloaded(uri, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        base = checked_base(uri, version.tags, base_path)
        model, _ = _load(folder, base, trust_remote_code)
        delta, tolerance = compare_probe(model, folder)
        if not delta <= tolerance:  # NaN is a difference too
            raise RegistryError(
                f"{uri}: is not the model that was trained: on the probe batch its logits differ "
                f"by up to {delta:.3g}, allowed is {tolerance:.3g}. Register the trained folder "
                "again; if its weights were changed after training, train again."
            )
        files = len(json.loads(version.tags[FILES_TAG]))
        return Verification(uri, delta, tolerance, files, version.tags.get(BASE_SHA256_TAG, ""))


def load_registered(
    uri: str,
    *,
    tracking: TrackingConfig | None = None,
    base_path: str = "",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a registered version in eval mode, its files and base checked."""
    with downloaded(uri, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        return _load(folder, checked_base(uri, version.tags, base_path), trust_remote_code)


def fetch_registered(uri: str, *, tracking: TrackingConfig | None = None) -> Path:
    """A registered version as the folder that was trained, checked, below home()/cache/models.

    Its registry.json says which version it is, so that a training that goes on from it can name
    its parent. Raises RegistryError for a version whose files are not those that were registered.
    """
    version = find_version(registry_client(tracking), uri)
    numbered = uri_of(version.name, version.version)
    if kept := kept_copy(numbered, version.tags):
        return kept
    with downloaded(numbered, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        return keep_copy(numbered, folder)


def _load(folder: Path, base: Path | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """(model, tokenizer) of a downloaded version, through MLflow's transformers flavor."""
    import transformers
    from mlflow.models import Model
    from mlflow.transformers import load_model

    flavor = Model.load(str(folder)).flavors["transformers"]
    classes = [flavor[key] for key in ("pipeline_model_type", "tokenizer_type")]
    foreign = [name for name in classes if not hasattr(transformers, name)]
    if foreign and not trust_remote_code:  # MLflow would run it unasked
        raise RegistryError(
            f"{folder}: {', '.join(foreign)} is code that comes with the model. Load it only if "
            "you trust its author: trust_remote_code=True."
        )
    extra = {"base_model_path": str(base)} if base else {}
    parts = load_model(str(folder), return_type="components", **extra)
    return parts["model"].eval(), parts["tokenizer"]
