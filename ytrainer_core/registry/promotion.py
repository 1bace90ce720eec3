"""Which version is @champion: promoted where proof and gate agree, by one at a time; rolled back.

A promotion says which champion it has seen (and which one the gate has seen); where another one
holds the alias by the time it may move it, nothing is moved.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry.claims import sole_claim
from ytrainer_core.registry.client import (
    downloaded,
    find_version,
    registry_client,
    registry_errors,
)
from ytrainer_core.registry.versions import (
    CHAMPION,
    GATE_TAG,
    JUDGED_TAG,
    NO_CHAMPION,
    PREVIOUS_TAG,
    PROOF_TAG,
    RESTORED_TAG,
    ROLLED_BACK_TAG,
    SUCCESSOR_TAG,
    Promotion,
    uri_of,
)
from ytrainer_core.verify import check_files


def promote(uri: str, *, force: bool = False, tracking: TrackingConfig | None = None) -> Promotion:
    """Give a version the alias @champion; the version that had it is kept for rollback.

    Needs ytrainer.proof=passed and files that are still those that were proved; unless `force`
    also ytrainer.gate=passed, a verdict against today's champion, and no rollback since. Raises
    RegistryError otherwise, and where another version becomes champion in the meantime, which it
    names. A version that is the champion already stays it.
    """
    client = registry_client(tracking)
    name = str(find_version(client, uri).name)
    with registry_errors(f"{uri} could not be promoted"):
        seen = champion_of(client.get_registered_model(name))
    with downloaded(uri, tracking) as (version, folder):
        number = int(version.version)
        faults = _doubts(uri, name, version.tags, 0 if number == seen else seen, force)
        if faults:
            raise RegistryError(*faults)
        check_files(uri, version.tags, folder)
    if number == seen:
        return Promotion(name, number, int(version.tags.get(PREVIOUS_TAG, 0)), changed=False)

    def still_seen(model: Any) -> None:
        now = champion_of(model)
        if now not in (seen, number):
            raise RegistryError(
                f"{uri}: was not promoted, because {uri_of(name, now) if now else 'no version'} "
                f"has become @{CHAMPION} in the meantime ({_named(seen)} was before). Evaluate it "
                "again, against that one, or promote it all the same with --force."
            )

    with (
        registry_errors(f"{uri} could not be promoted"),
        sole_claim(client, name, still_seen) as claim,
    ):
        if champion_of(claim.model) == number:
            return Promotion(name, number, seen, changed=False)
        _note(client, name, str(number), PREVIOUS_TAG, str(seen) if seen else "")
        _note(client, name, str(number), ROLLED_BACK_TAG, "")
        _note(client, name, str(number), RESTORED_TAG, "")
        if seen:
            _note(client, name, str(seen), SUCCESSOR_TAG, str(number))
        claim.require_fresh()
        client.set_registered_model_alias(name, CHAMPION, str(number))  # last: this is the commit
    return Promotion(name, number, seen)


def rollback(name: str, *, tracking: TrackingConfig | None = None) -> Promotion:
    """Take back the last promotion: @champion is again the version that it was before.

    Returns the version that is champion now and the one that was rolled back. Called again it
    changes nothing: further back leads only promote(force=True). Raises RegistryError where there
    is nothing to go back to.
    """
    client = registry_client(tracking)
    with registry_errors(f"'{name}' could not be rolled back"):
        seen = champion_of(client.get_registered_model(name))
        if not seen:
            raise RegistryError(
                f"'{name}' has no @{CHAMPION}, so there is nothing to roll back. "
                "`ytrainer registry list` shows the names and aliases."
            )
        version = client.get_model_version(name, str(seen))
        if RESTORED_TAG in version.tags:
            return Promotion(name, seen, int(version.tags[RESTORED_TAG]), changed=False)
        before = int(version.tags.get(PREVIOUS_TAG, 0))
        if not before:
            raise RegistryError(
                f"{uri_of(name, seen)} is the first champion, so there is nothing to go back "
                "to. Promote the version that you want."
            )
        client.get_model_version(name, str(before))  # it may have been deleted

        def still_seen(model: Any) -> None:
            now = champion_of(model)
            if now not in (seen, before):
                raise RegistryError(
                    f"'{name}': was not rolled back, because {_named(now)} has become @{CHAMPION} "
                    f"in the meantime ({_named(seen)} was before). Look at it with `ytrainer "
                    f"registry show models:/{name}@{CHAMPION}`, and do it again if it is wrong too."
                )

        with sole_claim(client, name, still_seen) as claim:
            if champion_of(claim.model) == before:
                return Promotion(name, before, seen, changed=False)
            _note(client, name, str(before), RESTORED_TAG, str(seen))
            _note(client, name, str(before), ROLLED_BACK_TAG, "")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            _note(client, name, str(seen), ROLLED_BACK_TAG, now)
            claim.require_fresh()
            client.set_registered_model_alias(name, CHAMPION, str(before))  # the commit
            _note(client, name, str(before), SUCCESSOR_TAG, "")
    return Promotion(name, before, seen)


def champion_of(model: Any) -> int:
    """Version number of a RegisteredModel's @champion, 0 where there is none."""
    return int(model.aliases.get(CHAMPION, 0))


def _doubts(uri: str, name: str, tags: dict[str, str], champion: int, force: bool) -> list[str]:
    """What speaks against a promotion. champion: today's, 0 for none or the version itself."""
    faults = []
    if tags.get(PROOF_TAG) != "passed":
        faults.append(
            f"{uri}: its proof is '{tags.get(PROOF_TAG, 'missing')}', so it may not be "
            "the model that was trained. Register it again."
        )
    if force:
        return faults
    if tags.get(GATE_TAG) != "passed":
        faults.append(
            f"{uri}: its gate verdict is '{tags.get(GATE_TAG, 'missing')}'. Evaluate "
            "it, or promote it all the same with --force."
        )
    if ROLLED_BACK_TAG in tags and champion:
        faults.append(
            f"{uri}: was the champion and was rolled back ({tags[ROLLED_BACK_TAG]}). Promote it "
            "all the same with --force."
        )
    judged = tags.get(JUDGED_TAG)
    if judged is not None and champion and judged != uri_of(name, champion):
        against = "without a champion" if judged == NO_CHAMPION else f"against {judged}"
        faults.append(
            f"{uri}: was judged {against}, but {_named(champion)} is champion now. Evaluate it "
            "again, or promote it all the same with --force."
        )
    return faults


def _named(number: int) -> str:
    return f"version {number}" if number else "no version"


def _note(client: Any, name: str, number: str, tag: str, value: str) -> None:
    """Set a tag of a version; an empty value takes it away."""
    if value:
        client.set_model_version_tag(name, number, tag, value)
    elif tag in client.get_model_version(name, number).tags:
        client.delete_model_version_tag(name, number, tag)
