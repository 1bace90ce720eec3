"""Which version is @champion: promoted where proof and gate agree, and rolled back one by one."""

from __future__ import annotations

from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry.client import downloaded, registry_client, registry_errors
from ytrainer_core.registry.versions import (
    CHAMPION,
    GATE_TAG,
    PREVIOUS_TAG,
    PROOF_TAG,
    Promotion,
)
from ytrainer_core.verify import check_files


def promote(uri: str, *, force: bool = False, tracking: TrackingConfig | None = None) -> Promotion:
    """Give a version the alias @champion; the version that had it is kept for rollback.

    Needs ytrainer.proof=passed, ytrainer.gate=passed (unless `force`) and files
    that are still those that were proved. Raises RegistryError otherwise. A
    version that is the champion already stays it.
    """
    client = registry_client(tracking)
    with downloaded(uri, tracking) as (version, folder):
        faults = []
        if version.tags.get(PROOF_TAG) != "passed":
            faults.append(
                f"{uri}: its proof is '{version.tags.get(PROOF_TAG, 'missing')}', so it may not be "
                "the model that was trained. Register it again."
            )
        if version.tags.get(GATE_TAG) != "passed" and not force:
            faults.append(
                f"{uri}: its gate verdict is '{version.tags.get(GATE_TAG, 'missing')}'. Evaluate "
                "it, or promote it all the same with --force."
            )
        if faults:
            raise RegistryError(*faults)
        check_files(uri, version.tags, folder)
    name, number = str(version.name), int(version.version)
    with registry_errors(f"{uri} could not be promoted"):
        previous = _champion(client, name)
        if previous == number:
            return Promotion(name, number, int(version.tags.get(PREVIOUS_TAG, 0)))
        if previous:
            client.set_model_version_tag(name, str(number), PREVIOUS_TAG, str(previous))
            client.set_model_version_tag(name, str(previous), f"{PREVIOUS_TAG}_of", str(number))
        else:  # left over from a promotion before the alias was deleted by hand
            _delete_tag(client, version, PREVIOUS_TAG)
        client.set_registered_model_alias(name, CHAMPION, str(number))  # last: this is the commit
    return Promotion(name, number, previous)


def rollback(name: str, *, tracking: TrackingConfig | None = None) -> Promotion:
    """Give @champion back to the version before; each call goes back one promotion.

    Returns the promotion undone the other way round: version is the champion now,
    previous the one that was rolled back. Raises RegistryError where there is
    nothing to go back to.
    """
    client = registry_client(tracking)
    with registry_errors(f"'{name}' could not be rolled back"):
        current = _champion(client, name)
        if not current:
            raise RegistryError(
                f"'{name}' has no @{CHAMPION}, so there is nothing to roll back. "
                "`ytrainer registry list` shows the names and aliases."
            )
        version = client.get_model_version(name, str(current))
        before = version.tags.get(PREVIOUS_TAG)
        if before is None:
            raise RegistryError(
                f"models:/{name}/{current} is the first champion, so there is nothing to go back "
                "to. Promote the version that you want."
            )
        earlier = client.get_model_version(name, before)
        client.set_registered_model_alias(name, CHAMPION, before)
        # Popped, so that promotions to and fro cannot make a circle.
        _delete_tag(client, version, PREVIOUS_TAG)
        _delete_tag(client, earlier, f"{PREVIOUS_TAG}_of")
    return Promotion(name, int(before), current)


def _champion(client: Any, name: str) -> int:
    """Version number of @champion, 0 where there is none."""
    return int(client.get_registered_model(name).aliases.get(CHAMPION, 0))


def _delete_tag(client: Any, version: Any, tag: str) -> None:
    if tag in version.tags:
        client.delete_model_version_tag(version.name, version.version, tag)
