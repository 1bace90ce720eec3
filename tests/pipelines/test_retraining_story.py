"""The story that docs/retraining.md tells, command by command, on the demo's base model.

And, as the base is there, what scoring finds in the demo's corpus.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from homes import CLI, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = EXAMPLES / "retrain.yaml"
NAME = "my-model"


@dataclass(frozen=True)
class Told:
    """How one command ended. result: what a trigger wrote, {} for other commands."""

    code: int
    out: str
    err: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Story:
    """Commands in the order in which they were given, in the home in `folder`."""

    folder: Path
    first: Told
    unchanged: Told
    better: Told
    ancestry: Told
    poisoned: Told
    poisoned_again: Told
    listed: Told
    rolled_back: Told
    rolled_back_again: Told
    after: Told
    scored: Told


def ytrainer(*words: str, out: Path | None = None) -> Told:
    more = ["--out", str(out)] if out else []
    done = subprocess.run([*CLI, *words, *more], capture_output=True, text=True, timeout=1500)
    result = json.loads((out / "result.json").read_text()) if out else {}
    return Told(done.returncode, done.stdout, done.stderr, result)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, _nothing_from_outside: None) -> Story:
    folder = tmp_path_factory.mktemp("story")
    calls = iter(range(10))

    def trigger(corpus: str) -> Told:
        train = f"data.train=demo:{corpus}"
        return ytrainer(
            "trigger", str(CONFIG), "--local", train, out=folder / f"call-{next(calls)}"
        )

    with environment(folder / "home"):
        return Story(
            folder=folder,
            first=trigger("v1"),
            unchanged=trigger("v1"),
            better=trigger("v2"),
            ancestry=ytrainer("registry", "show", f"models:/{NAME}/2"),
            poisoned=trigger("v3"),
            poisoned_again=trigger("v3"),
            listed=ytrainer("registry", "list", "--json"),
            rolled_back=ytrainer("registry", "rollback", NAME),
            rolled_back_again=ytrainer("registry", "rollback", NAME),
            after=ytrainer("registry", "list", "--json"),
            scored=ytrainer(
                "score", str(EXAMPLES / "score.yaml"), f"output_dir={folder / 'scored'}"
            ),
        )


def champion_in(told: Told) -> int:
    (model,) = json.loads(told.out)
    (champion,) = (each for each in model["versions"] if "champion" in each["aliases"])
    return int(champion["version"])


def test_the_first_corpus_gives_a_champion_that_can_do_the_task(story: Story) -> None:
    assert story.first.code == 0, story.first.err
    assert story.first.result["version"] == f"models:/{NAME}/1"
    assert story.first.result["metrics"]["exact_match"] > 0.2
    assert story.first.result["metrics"]["base_exact_match"] < 0.1


def test_the_same_corpus_again_trains_nothing(story: Story) -> None:
    assert story.unchanged.code == 7
    assert story.unchanged.out.startswith(f"nothing changed since models:/{NAME}/1 (@champion)")


def test_better_rows_give_a_better_champion(story: Story) -> None:
    assert story.better.code == 0, story.better.err
    told = story.better.result
    assert told["version"] == f"models:/{NAME}/2" and told["previous"] == f"models:/{NAME}/1"
    assert told["metrics"]["exact_match"] > told["metrics"]["champion_exact_match"]
    assert told["metrics"]["exact_match"] > 0.5


def test_the_lineage_shows_both(story: Story) -> None:
    assert story.ancestry.code == 0, story.ancestry.err
    assert f"models:/{NAME}/2" in story.ancestry.out and f"models:/{NAME}/1" in story.ancestry.out


def test_a_poisoned_corpus_is_rejected_and_the_champion_stays(story: Story) -> None:
    assert story.poisoned.code == 3, story.poisoned.err
    assert story.poisoned.result["outcome"] == "rejected"
    against = [line for line in story.poisoned.result["reasons"] if "champion" in line]
    assert any(line.startswith("-") for line in against)
    assert champion_in(story.listed) == 2


def test_what_was_rejected_is_not_trained_again(story: Story) -> None:
    assert story.poisoned_again.code == 7
    assert f"models:/{NAME}/3" in story.poisoned_again.out


def test_a_rollback_restores_the_version_before_and_can_be_repeated(story: Story) -> None:
    assert (story.rolled_back.code, story.rolled_back_again.code) == (0, 0)
    assert champion_in(story.after) == 1


def test_a_model_that_knows_the_other_rows_finds_wrong_answers(story: Story) -> None:
    """As it is, the base finds 1 of 22; flagged are 5 % of the rows."""
    assert story.scored.code == 0, story.scored.err
    planted = json.loads((story.folder / "home" / "demo" / "planted.json").read_text())
    wrong = {row["line"] for row in planted if row["kind"] == "wrong_answer"}
    table = pq.read_table(story.folder / "scored" / "scores").to_pydict()
    flagged = [
        int(origin.rsplit(":", 1)[1])
        for origin, flag in zip(table["origin"], table["flagged"], strict=True)
        if flag
    ]
    assert len(wrong) == 22 and len(flagged) < 35
    assert len(wrong & set(flagged)) >= 8
