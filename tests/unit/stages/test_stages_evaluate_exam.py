"""What the models are asked: the last answer of each conversation, from everything before it."""

from __future__ import annotations

from typing import Any

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.stages.evaluate_exam import questions


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
