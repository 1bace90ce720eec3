"""The demo's small talk: answers that follow from what was told, in both spellings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ytrainer_core.data.formats import Turn, parse_row
from ytrainer_core.demo.conversations import ROWS, write_conversations

ASKED = {
    "Where do I live?": (r"(?:I live in|My home is in) (\w+)\.", "You live in {}."),
    "What is my job?": (r"(?:I am|I work as) (an? \w+)\.", "You are {}."),
    "What did I buy?": (r"(?:I bought|I have bought) (an? \w+)\.", "You bought {}."),
    "What is my name?": (r"(?:my name is|I am|this is) ([A-Z]\w+)\.", "Your name is {}."),
    "When will I come?": (r"on (\w+day)\.", "You will come on {}."),
}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Turn, ...]]:
    path = write_conversations(tmp_path_factory.mktemp("demo"))
    return [parse_row(json.loads(line), "sharegpt").turns for line in path.open(encoding="utf-8")]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first, same, other = (
        write_conversations(tmp_path / name, seed).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == same != other


def test_all_rows_differ_and_both_spellings_occur(tmp_path: Path) -> None:
    lines = write_conversations(tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) == ROWS
    spelled = [set(json.loads(line)["conversations"][0]) for line in lines]
    for names in ({"from", "value"}, {"role", "content"}):
        assert spelled.count(names) > ROWS / 3


def test_turns_alternate_and_there_are_several(talks: list[tuple[Turn, ...]]) -> None:
    for talk in talks:
        roles = [turn.role for turn in talk if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) >= 6 and all(turn.content for turn in talk)


@pytest.mark.parametrize("question", ASKED)
def test_what_is_asked_for_was_told_before(question: str, talks: list[tuple[Turn, ...]]) -> None:
    told, answer = ASKED[question]
    checked = 0
    for talk in talks:
        for at, turn in enumerate(talk):
            if turn.content == question:
                before = " ".join(earlier.content for earlier in talk[:at])
                match = re.search(told, before)
                assert match, before
                assert talk[at + 1].content == answer.format(match[1])
                checked += 1
    assert checked > 50


def test_the_name_of_the_demo_resolves_to_the_rows() -> None:
    from ytrainer_core.demo.resources import locate

    assert len(Path(locate("demo:conversations")).read_text().splitlines()) == ROWS
