"""What is registered: every model with its versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.registry.client import all_pages, registry_client, registry_errors
from ytrainer_core.registry.versions import (
    GATE_TAG,
    PROOF_TAG,
    ModelSummary,
    VersionSummary,
    metrics_of,
    uri_of,
)
from ytrainer_core.verify import FORM_TAG


def list_models(tracking: TrackingConfig | None = None) -> list[ModelSummary]:
    """All registered models with their versions, newest version first."""
    client = registry_client(tracking)
    with registry_errors("the registry could not be read"):
        return [
            ModelSummary(
                str(model.name),
                tuple(
                    summary_of(version, model.aliases)
                    for version in versions_of(client, model.name)
                ),
            )
            for model in all_pages(client.search_registered_models)
        ]


def versions_of(client: Any, name: str) -> list[Any]:
    """The ModelVersions of a name, newest first."""
    found = all_pages(client.search_model_versions, filter_string=f"name='{name}'")
    return sorted(found, key=lambda version: -int(version.version))


def summary_of(version: Any, aliases: Mapping[str, str]) -> VersionSummary:
    """A version's row. aliases: all of its model, name -> number."""
    number = int(version.version)  # MLflow gives an int or a str, as the store has it
    return VersionSummary(
        version=number,
        uri=uri_of(version.name, number),
        aliases=tuple(sorted(alias for alias, held in aliases.items() if int(held) == number)),
        proof=version.tags.get(PROOF_TAG, ""),
        gate=version.tags.get(GATE_TAG, ""),
        form=version.tags.get(FORM_TAG, ""),
        run_id=version.run_id or "",
        created=version.creation_timestamp / 1000,
        metrics=metrics_of(version.tags),
    )
