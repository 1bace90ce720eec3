"""What a version is called and what it carries: aliases, tags, records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHALLENGER = "challenger"
CHAMPION = "champion"

PROOF_TAG = "ytrainer.proof"
GATE_TAG = "ytrainer.gate"
MAX_DELTA_TAG = "ytrainer.max_delta"
PREVIOUS_TAG = "ytrainer.previous_champion"
METRIC_PREFIX = "ytrainer.metric."
"""Tags `ytrainer.metric.<name>` hold numbers: shown by list_models, logged on the logged model."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered and proved version. max_delta: largest |logit difference| to the trained one."""

    name: str
    version: int
    uri: str
    max_delta: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which version holds @champion now, and which held it before (0: none)."""

    name: str
    version: int
    previous: int


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


def metrics_of(tags: Mapping[str, str]) -> dict[str, float]:
    """The numbers among a version's tags, by metric name."""
    return {
        name.removeprefix(METRIC_PREFIX): float(value)
        for name, value in tags.items()
        if name.startswith(METRIC_PREFIX)
    }
