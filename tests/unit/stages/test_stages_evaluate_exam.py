"""What the models are asked: the last answer of each conversation, from everything before it."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.evaluation.preferences import Preferences
from ytrainer_core.stages.evaluate_exam import preferences, questions


def talk(*turns: str, first: str = "user") -> dict[str, Any]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(turns)]}


def asked(rows: list[dict[str, Any]], tokenizer: Any, most: int = 9, **data: Any) -> list[Any]:
    return questions(rows, tokenizer, DataConfig(**data), most)


def test_a_question_is_everything_up_to_the_last_answer(tokenizer: Any) -> None:
    (found,) = asked([talk("one", "two", "three", "four")], tokenizer)
    assert (found.prompt, found.expected) == ("three", "four")
    assert found.text == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(found.prompt_ids) == found.text


def test_the_system_prompt_comes_first_unless_the_row_has_one(tokenizer: Any) -> None:
    own = talk("one", "two")
    own["messages"].insert(0, {"role": "system", "content": "Mine."})
    plain, kept = asked([talk("one", "two"), own], tokenizer, system_prompt="Be brief.")
    assert plain.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert kept.text.startswith("<|im_start|>system\nMine.<|im_end|>\n")


@pytest.mark.parametrize(
    "row",
    [{"messages": []}, talk("one"), talk("one", "two", "three"), talk("x", first="assistant")],
)
def test_rows_without_an_answer_to_a_question_are_not_asked(
    row: dict[str, Any], tokenizer: Any
) -> None:
    found = asked([row, talk("one", "two")], tokenizer)
    assert [question.expected for question in found] == ["two"]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_asked_and_that_is_said(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [talk("word " * 40, "two"), talk("one", "two")]
    assert len(asked(rows, tokenizer, max_length=640)) == 2
    assert not capsys.readouterr().err
    assert len(asked(rows, tokenizer, max_length=64)) == 1
    assert "1 held-out prompts fill data.max_length=64" in capsys.readouterr().err


@pytest.mark.parametrize("most, count", [(0, 0), (1, 1), (9, 3)])
def test_no_more_than_asked_for(most: int, count: int, tokenizer: Any) -> None:
    assert len(asked([talk("one", "two")] * 3, tokenizer, most)) == count


def told(rows: list[dict[str, Any]], tokenizer: Any) -> Preferences | None:
    empty: dict[str, Any] = {"label": None, "rejected": [], "text": ""}
    records = [empty | row | {"origin": f"rows:{i}"} for i, row in enumerate(rows)]
    return preferences(datasets.Dataset.from_list(records), tokenizer, DataConfig())


def pair(question: str, chosen: str, *rejected: str) -> dict[str, Any]:
    turns = [{"role": "assistant", "content": content} for content in rejected]
    return {**talk(question, chosen), "rejected": turns}


def answers(found: Preferences | None, tokenizer: Any) -> list[tuple[str, bool]]:
    assert found is not None
    targets = [[i for i in row["labels"] if i != IGNORED] for row in found.rows]
    return list(zip(map(tokenizer.decode, targets), found.liked.tolist(), strict=True))


def test_the_preferred_answers_are_the_last_ones_with_their_labels(tokenizer: Any) -> None:
    rows = [
        {**talk("one", "two", "three", "four"), "label": True},
        talk("who", "nobody says"),
        {**talk("one", "five"), "label": False},
    ]
    found = told(rows, tokenizer)
    assert answers(found, tokenizer) == [("four<|im_end|>", True), ("five<|im_end|>", False)]
    assert found is not None and not found.paired


def test_of_pairs_both_answers_are_asked_for_but_not_of_answers_with_several_turns(
    tokenizer: Any,
) -> None:
    found = told([pair("one", "two", "three"), pair("one", "two", "no", "three")], tokenizer)
    assert answers(found, tokenizer) == [("two<|im_end|>", True), ("three<|im_end|>", False)]
    assert found is not None and found.paired


def test_without_both_kinds_of_answers_nothing_is_compared(tokenizer: Any) -> None:
    assert told([{**talk("one", "two"), "label": True}], tokenizer) is None
    assert told([talk("one", "two")], tokenizer) is None
