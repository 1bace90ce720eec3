"""What is registered: every model with its versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.registry.client import registry_client, registry_errors
from ytrainer_core.registry.versions import (
    GATE_TAG,
    PROOF_TAG,
    ModelSummary,
    VersionSummary,
    metrics_of,
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
                    _summary(version, model.aliases)
                    for version in _all_pages(
                        client.search_model_versions, filter_string=f"name='{model.name}'"
                    )
                ),
            )
            for model in _all_pages(client.search_registered_models)
        ]


def _summary(version: Any, aliases: Mapping[str, str]) -> VersionSummary:
    number = int(version.version)  # MLflow gives an int or a str, as the store has it
    return VersionSummary(
        version=number,
        uri=f"models:/{version.name}/{number}",
        aliases=tuple(sorted(alias for alias, held in aliases.items() if int(held) == number)),
        proof=version.tags.get(PROOF_TAG, ""),
        gate=version.tags.get(GATE_TAG, ""),
        form=version.tags.get(FORM_TAG, ""),
        run_id=version.run_id or "",
        created=version.creation_timestamp / 1000,
        metrics=metrics_of(version.tags),
    )


def _all_pages(search: Callable[..., Any], **arguments: str) -> Iterator[Any]:
    page = search(**arguments)
    yield from page
    while page.token:
        page = search(**arguments, page_token=page.token)
        yield from page
