"""One version with everything it carries, and the versions it came from and was measured against.

Two kinds of arrows lead back: to the version whose weights training went on from, and to the
champion that the gate compared it with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry.client import find_version, registry_client, registry_errors
from ytrainer_core.registry.listing import summary_of
from ytrainer_core.registry.versions import (
    CHAMPION,
    GATE_TAG,
    JUDGED_TAG,
    NO_CHAMPION,
    PARENT_TAG,
    UNREGISTERED_PREFIX,
    VersionSummary,
)

Relation = Literal["", "trained on from", "judged against"]
State = Literal["registered", "missing", "not registered", "shown above", "further back"]

_GENERATIONS = 100
"""Depth at which a tree ends; `show` of its last version goes on from there."""

_ARROWS: tuple[tuple[Relation, str], ...] = (
    ("trained on from", PARENT_TAG),
    ("judged against", JUDGED_TAG),
)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A node of the tree.

    relation: what it is to the node above, empty at the top. state: missing says that it was
    deleted, or never was in this registry; not registered that only its digest is known; shown
    above that its own ancestors are in another place of the tree; further back that they are told
    by `show` of this version. created: seconds since 1970.
    """

    uri: str
    relation: Relation
    state: State
    aliases: tuple[str, ...] = ()
    gate: str = ""
    created: float = 0.0
    ancestors: tuple[Ancestor, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """All there is to know of a version."""

    name: str
    summary: VersionSummary
    tags: dict[str, str]
    ancestry: Ancestor


def show(uri: str, *, tracking: TrackingConfig | None = None) -> VersionDetails:
    """A version, its tags and its whole ancestry. Raises RegistryError where there is no such."""
    client = registry_client(tracking)
    version = _resolve(client, uri)
    with registry_errors(f"{uri} could not be read"):
        aliases = client.get_registered_model(version.name).aliases
        summary = summary_of(version, aliases)
        ancestry = _Tree(client).grow(summary.uri, "")
    return VersionDetails(str(version.name), summary, dict(version.tags), ancestry)


def _resolve(client: Any, uri: str) -> Any:
    """The version of a URI, or the champion (else the newest version) of a bare name."""
    if uri.startswith("models:/"):
        return find_version(client, uri)
    with registry_errors(f"'{uri}' could not be read"):
        model = client.get_registered_model(uri)
        number = model.aliases.get(CHAMPION)
        newest = max((int(each.version) for each in model.latest_versions), default=0)
        if not (number or newest):
            raise RegistryError(
                f"'{uri}' has no versions. `ytrainer registry register DIR --name {uri}` makes one."
            )
        return client.get_model_version(uri, str(number or newest))


class _Tree:
    """Grows a tree in which every version's ancestors are told once: no circle, no repetition."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._told: set[str] = set()
        self._aliases: dict[str, dict[str, str]] = {}

    def grow(self, uri: str, relation: Relation, depth: int = 0) -> Ancestor:
        """The node of a URI with all that lies below it. depth: generations above it."""
        if uri.startswith(UNREGISTERED_PREFIX):
            return Ancestor(uri, relation, "not registered")
        version = self._found(uri)
        if version is None:
            return Ancestor(uri, relation, "missing")
        summary = summary_of(version, self._aliases_of(version.name))
        is_told = summary.uri in self._told
        self._told.add(summary.uri)
        is_leaf = is_told or depth == _GENERATIONS
        arrows = [
            (kind, version.tags[tag])
            for kind, tag in _ARROWS
            if version.tags.get(tag, NO_CHAMPION) != NO_CHAMPION
        ]
        state: State = "registered"
        if is_leaf and arrows:
            state = "shown above" if is_told else "further back"
        return Ancestor(
            summary.uri,
            relation,
            state,
            summary.aliases,
            version.tags.get(GATE_TAG, ""),
            summary.created,
            () if is_leaf else tuple(self.grow(above, kind, depth + 1) for kind, above in arrows),
        )

    def _found(self, uri: str) -> Any:
        from mlflow.exceptions import MlflowException

        name, _, number = uri.removeprefix("models:/").rpartition("/")
        try:
            return self._client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def _aliases_of(self, name: str) -> dict[str, str]:
        if name not in self._aliases:
            self._aliases[name] = self._client.get_registered_model(name).aliases
        return self._aliases[name]
