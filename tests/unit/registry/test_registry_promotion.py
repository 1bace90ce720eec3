"""Which version is champion: judged against today's, moved by one at a time, taken back once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import registry, tracking
from ytrainer_core.config import TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.registry import claims, promote, rollback
from ytrainer_core.registry.claims import CLAIM_PREFIX, sole_claim

Register = Callable[..., registry.Version]
Several = Callable[[Path, str, int], None]

WORKER = Path(__file__).with_name("promotion_worker.py")
CONTENDERS = 8
ROUNDS = {2: 12, CONTENDERS: 8}
"""Contenders -> rounds."""
JUDGED = "ytrainer.judged_against"


def champion(client: Any, name: str) -> int:
    return int(client.get_registered_model(name).aliases.get("champion", 0))


def tags(client: Any, name: str, number: int) -> dict[str, str]:
    return dict(client.get_model_version(name, str(number)).tags)


# --- what may be promoted ------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process_proof")
def test_only_what_passed_the_gate_is_promoted_unless_forced(
    adapter: Path, register: Register, client: Any
) -> None:
    register(adapter, "gated", told={"ytrainer.gate": "rejected"})
    with pytest.raises(RegistryError, match="gate verdict is 'rejected'"):
        promote("models:/gated/1")
    assert champion(client, "gated") == 0
    assert promote("models:/gated/1", force=True).version == 1


def test_the_champion_before_is_kept_for_rollback(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "delivery", 3)
    assert promote("models:/delivery/1").previous == 0
    assert promote("models:/delivery/3").previous == 1
    assert tags(client, "delivery", 1)["ytrainer.previous_champion_of"] == "3"
    assert tags(client, "delivery", 3)["ytrainer.previous_champion"] == "1"
    again = promote("models:/delivery@champion")
    assert (again.version, again.previous, again.changed) == (3, 1, False)


def test_a_verdict_against_another_champion_does_not_count(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "judged", 4)
    for number, against in ((2, "none"), (3, "models:/judged/1"), (4, "models:/judged/2")):
        client.set_model_version_tag("judged", str(number), JUDGED, against)
    promote("models:/judged/1")
    with pytest.raises(RegistryError, match=r"without a champion, but version 1 is champion now"):
        promote("models:/judged/2")
    assert promote("models:/judged/3").previous == 1
    with pytest.raises(RegistryError, match=r"against models:/judged/2, but version 3 is") as told:
        promote("models:/judged/4")
    assert "--force" in str(told.value)
    assert champion(client, "judged") == 3
    assert promote("models:/judged/3").changed is False, "its own verdict was against version 1"
    assert promote("models:/judged/4", force=True).previous == 3


def test_without_a_champion_there_is_nothing_to_fall_behind(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "orphan", 1)
    client.set_model_version_tag("orphan", "1", JUDGED, "models:/orphan/9")
    assert promote("models:/orphan/1").version == 1


# --- rollback ------------------------------------------------------------------------------------


def test_a_rollback_done_twice_goes_back_once(adapter: Path, several: Several, client: Any) -> None:
    several(adapter, "back", 3)
    with pytest.raises(RegistryError, match="no @champion"):
        rollback("back")
    promote("models:/back/1")
    with pytest.raises(RegistryError, match="first champion"):
        rollback("back")
    promote("models:/back/2")
    promote("models:/back/3")
    undone = rollback("back")
    assert (undone.version, undone.previous, undone.changed) == (2, 3, True)
    for _ in range(2):
        again = rollback("back")
        assert (again.version, again.previous, again.changed) == (2, 3, False)
    assert champion(client, "back") == 2
    assert "ytrainer.rolled_back" in tags(client, "back", 3)
    assert "ytrainer.rolled_back" not in tags(client, "back", 2)
    assert "ytrainer.previous_champion_of" not in tags(client, "back", 2)


def test_what_was_rolled_back_comes_again_only_by_force(
    adapter: Path, several: Several, client: Any
) -> None:
    several(adapter, "bad", 2)
    promote("models:/bad/1")
    promote("models:/bad/2")
    rollback("bad")
    with pytest.raises(RegistryError, match=r"was the champion and was rolled back"):
        promote("models:/bad/2")
    assert promote("models:/bad/2", force=True).previous == 1
    assert "ytrainer.rolled_back" not in tags(client, "bad", 2)
    assert rollback("bad").changed, "a new promotion can be taken back again"
    assert promote("models:/bad/2", force=True).version == 2
    assert "ytrainer.restored_from" not in tags(client, "bad", 2)


# --- one at a time -------------------------------------------------------------------------------


def anything(model: Any) -> None:
    """A check that finds nothing wrong."""


class Clock:
    """The time module of the claims: every pause takes two thirds of what makes a claim dead.

    How long the real server takes plays no part.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += claims.DEAD_SECONDS * 2 / 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(claims, "time", clock)
    return clock


def test_the_claim_of_a_dead_process_ends_by_itself(
    adapter: Path, several: Several, client: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    several(adapter, "widow", 1)
    client.set_registered_model_tag("widow", f"{CLAIM_PREFIX}dead", "1")
    with monkeypatch.context() as impatient:
        impatient.setattr(claims, "_PATIENCE_SECONDS", claims.DEAD_SECONDS / 2)
        with pytest.raises(RegistryError, match="other promotions have been under way"):
            promote("models:/widow/1")
    assert champion(client, "widow") == 0
    began = clock.now
    assert promote("models:/widow/1").version == 1
    assert clock.now - began == pytest.approx(claims.DEAD_SECONDS * 4 / 3), "watched for two pauses"
    assert client.get_registered_model("widow").tags == {}


def test_a_claim_that_changes_is_alive_however_long_it_stands(
    adapter: Path, several: Several, client: Any, clock: Clock
) -> None:
    several(adapter, "busy", 1)
    tries = 0

    def renewed(model: Any) -> None:
        nonlocal tries
        tries += 1
        client.set_registered_model_tag("busy", f"{CLAIM_PREFIX}other", str(tries))

    with pytest.raises(RegistryError, match="under way"), sole_claim(client, "busy", renewed):
        pytest.fail("two hold a claim")
    assert clock.now > 2 * claims.DEAD_SECONDS, "or it need not have changed"
    assert client.get_registered_model("busy").tags == {f"{CLAIM_PREFIX}other": str(tries)}


def test_who_held_a_claim_for_too_long_moves_nothing(
    adapter: Path, several: Several, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(adapter, "slow", 1)
    monkeypatch.setattr(claims, "HELD_SECONDS", -1.0)
    with pytest.raises(RegistryError, match="nothing was moved"):
        promote("models:/slow/1")
    assert champion(client, "slow") == 0
    assert client.get_registered_model("slow").tags == {}


def test_a_champion_that_changes_while_one_waits_ends_the_waiting(
    adapter: Path, several: Several, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(adapter, "late", 3)
    promote("models:/late/1")
    ours = client.get_registered_model("late")
    client.set_registered_model_tag("late", f"{CLAIM_PREFIX}other", "1")

    def other_wins(seconds: float) -> None:
        client.set_registered_model_alias("late", "champion", "3")
        client.delete_registered_model_tag("late", f"{CLAIM_PREFIX}other")

    monkeypatch.setattr(claims.time, "sleep", other_wins)
    with pytest.raises(RegistryError, match=r"models:/late/3 has become @champion") as told:
        promote("models:/late/2", force=True)
    assert "version 1 was before" in str(told.value)
    assert ours.aliases["champion"] in (1, "1") and champion(client, "late") == 3


@contextmanager
def promoters(server: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ready to promote."""
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout and worker.stdout.readline() == "ready\n"
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("in_process_proof")
def test_of_several_promotions_at_one_instant_exactly_one_wins(
    server: str, adapter: Path, register: Register, place: Path
) -> None:
    where = TrackingConfig(uri=server, experiment="race")
    remote = tracking.connect(where)
    remote.create_experiment("race", artifact_location=str(place / "race"))
    first = register(adapter, "race", tracking=where)
    made = remote.get_model_version("race", "1")
    for _ in range(CONTENDERS):
        model = made.tags["ytrainer.model_id"]
        remote.create_model_version("race", made.source, tags=made.tags, model_id=model)
    promote(first.uri, tracking=where)
    choice = random.Random(7)
    with promoters(server, CONTENDERS) as workers:
        for contenders, rounds in ROUNDS.items():
            for _ in range(rounds):
                one_round(remote, workers[:contenders], choice)


def one_round(remote: Any, workers: list[subprocess.Popen[str]], choice: random.Random) -> None:
    """All promote at once, each another version, all of them judged against today's champion."""
    before = champion(remote, "race")
    others = [number for number in range(1, CONTENDERS + 2) if number != before]
    numbers = choice.sample(others, len(workers))
    for number in numbers:
        remote.set_model_version_tag("race", str(number), JUDGED, f"models:/race/{before}")
    moment = time.time() + 0.05
    for worker, number in zip(workers, numbers, strict=True):
        assert worker.stdin
        worker.stdin.write(f"{moment} models:/race/{number}\n")
        worker.stdin.flush()
    told = [json.loads(worker.stdout.readline()) for worker in workers if worker.stdout]
    won = [each for each in told if "won" in each]
    assert len(won) == 1, told
    winner = champion(remote, "race")
    assert won[0] == {"won": winner, "before": before, "changed": True}
    assert numbers[[bool("won" in each) for each in told].index(True)] == winner
    for each in told:
        if "lost" in each:
            named = (f"models:/race/{winner} has become", f"version {winner} is champion now")
            assert any(text in each["lost"] for text in named), each
    assert remote.get_registered_model("race").tags == {}, "a claim was left"
    remote_tags = tags(remote, "race", winner)
    assert remote_tags["ytrainer.previous_champion"] == str(before)
