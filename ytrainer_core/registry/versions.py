"""What a version is called and what it carries: aliases, tags, records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHALLENGER = "challenger"
CHAMPION = "champion"

OWN_PREFIX = "ytrainer."
PROOF_TAG = "ytrainer.proof"
GATE_TAG = "ytrainer.gate"
REASONS_TAG = "ytrainer.gate_reasons"
"""The gate's sentences, one a line: '+ …' for what held, '- …' for what did not."""
MAX_DELTA_TAG = "ytrainer.max_delta"
EVALUATION_TAG = "ytrainer.evaluation_digest"
JUDGED_TAG = "ytrainer.judged_against"
"""The champion that the gate compared this version with: models:/NAME/3, or NO_CHAMPION."""
NO_CHAMPION = "none"
PARENT_TAG = "ytrainer.parent"
"""Whose weights training went on from: models:/NAME/2, or sha256:… of one never registered."""
UNREGISTERED_PREFIX = "sha256:"
TRAINED_SHA256_TAG = "ytrainer.model_sha256"
"""Identity of the trained folder (training.parents.trained_digest): the same in any form."""
PREVIOUS_TAG = "ytrainer.previous_champion"
SUCCESSOR_TAG = "ytrainer.previous_champion_of"
ROLLED_BACK_TAG = "ytrainer.rolled_back"
"""When a champion was taken back (UTC); it is promoted again only by force."""
RESTORED_TAG = "ytrainer.restored_from"
"""On a champion that a rollback made: number of the version it took the place of."""
PUBLISHED_TAG = "ytrainer.published"
METRIC_PREFIX = "ytrainer.metric."
"""Tags `ytrainer.metric.<name>` hold numbers: shown by list_models, logged on the logged model."""
TRIGGER_PREFIX = "ytrainer.trigger."
"""What the trigger compares; the only tags of ours that a config may set."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered and proved version.

    max_delta: largest |logit difference| to the trained model. is_new: False where the same model
    with the same verdict was registered before. published: where its files were copied to.
    """

    name: str
    version: int
    uri: str
    max_delta: float
    is_new: bool = True
    published: str = ""


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which version holds @champion now, and which held it before (0: none).

    changed: False where it was so already, and nothing was done.
    """

    name: str
    version: int
    previous: int
    changed: bool = True


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """One row of `ytrainer registry list`. created: seconds since 1970."""

    version: int
    uri: str
    aliases: tuple[str, ...]
    proof: str
    gate: str
    form: str
    run_id: str
    created: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A registered model with its versions, newest first."""

    name: str
    versions: tuple[VersionSummary, ...]


def uri_of(name: str, number: int | str) -> str:
    """models:/NAME/3."""
    return f"models:/{name}/{number}"


def metrics_of(tags: Mapping[str, str]) -> dict[str, float]:
    """The numbers among a version's tags, by metric name."""
    return {
        name.removeprefix(METRIC_PREFIX): float(value)
        for name, value in tags.items()
        if name.startswith(METRIC_PREFIX)
    }
