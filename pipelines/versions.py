"""What the registry says of a model's versions: which are settled, and which came of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.inputs import Inputs
from ytrainer_core.config import FinetuneConfig
from ytrainer_core.registry import listing
from ytrainer_core.registry.client import registry_client, registry_errors
from ytrainer_core.registry.promotion import champion_of as champion_number
from ytrainer_core.registry.versions import (
    CHAMPION,
    GATE_TAG,
    PREVIOUS_TAG,
    PROOF_TAG,
    REASONS_TAG,
    ROLLED_BACK_TAG,
    SUCCESSOR_TAG,
    metrics_of,
    uri_of,
)

_WAS_CHAMPION = (PREVIOUS_TAG, SUCCESSOR_TAG, ROLLED_BACK_TAG)


@dataclass(frozen=True)
class Registered:
    """One version, with its tags."""

    number: int
    uri: str
    tags: Mapping[str, str]
    is_champion: bool

    @property
    def passed(self) -> bool:
        """Whether the gate passed it."""
        return self.tags.get(GATE_TAG) == "passed"

    @property
    def metrics(self) -> dict[str, float]:
        """What its evaluation measured."""
        return metrics_of(self.tags)

    @property
    def reasons(self) -> list[str]:
        """The gate's reasons, sentence by sentence."""
        return self.tags.get(REASONS_TAG, "").splitlines()

    @property
    def is_settled(self) -> bool:
        """Whether its run came to its end: rejected, or champion at some time.

        A version that passed and was never promoted came of a run that broke off.
        """
        if self.tags.get(PROOF_TAG) != "passed":
            return False
        was_champion = any(tag in self.tags for tag in _WAS_CHAMPION)
        return self.is_champion or was_champion or self.tags.get(GATE_TAG) == "rejected"

    @property
    def described(self) -> str:
        """The version and what became of it."""
        if self.is_champion:
            return f"{self.uri} (@{CHAMPION})"
        if ROLLED_BACK_TAG in self.tags:
            return f"{self.uri} (rolled back)"
        return f"{self.uri} ({'no champion any more' if self.passed else 'rejected by the gate'})"


def versions_of(config: FinetuneConfig) -> list[Registered]:
    """Every version of registry.name, newest first; none where the name is new.

    Raises RegistryError where the registry does not answer.
    """
    client, name = registry_client(config.tracking), config.registry.name
    with registry_errors(f"'{name}' could not be read from the registry"):
        found = listing.versions_of(client, name)
        champion = champion_number(client.get_registered_model(name)) if found else 0
    return [
        Registered(
            number=int(version.version),
            uri=uri_of(name, version.version),
            tags=version.tags,
            is_champion=int(version.version) == champion,
        )
        for version in found
    ]


def champion_of(versions: Sequence[Registered]) -> Registered | None:
    """The version that holds @champion."""
    return next((version for version in versions if version.is_champion), None)


def settled_with(versions: Sequence[Registered], inputs: Inputs) -> Registered | None:
    """The champion, or the newest settled version after it, that these very inputs made."""
    champion = champion_of(versions)
    oldest = champion.number if champion else 0
    since = (version for version in versions if version.number >= oldest)
    return made_of([version for version in since if version.is_settled], inputs)


def made_of(versions: Sequence[Registered], inputs: Inputs) -> Registered | None:
    """The newest version that these inputs made."""
    return next((version for version in versions if inputs.same_as(version.tags)), None)
