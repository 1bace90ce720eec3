"""Every row shape becomes the turns that its fields say, or names what is wrong with it."""

from __future__ import annotations

import datetime
import json
import math
import typing
from typing import Any

import pytest

from ytrainer_core.config.data import RowFormat
from ytrainer_core.data.formats import (
    SHAPES,
    ParsedRow,
    Row,
    RowFault,
    Turn,
    detect_shape,
    parse_row,
)

Said = list[tuple[str, str]]

PA = [("user", "p"), ("assistant", "a")]


def said(turns: tuple[Turn, ...]) -> Said:
    return [(turn.role, turn.content) for turn in turns]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: object, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


CASES: list[tuple[str, dict[str, Any], Said]] = [
    (
        "alpaca",
        {"instruction": "Add.", "input": "1+1", "output": "2"},
        [("user", "Add.\n1+1"), ("assistant", "2")],
    ),
    ("alpaca", {"instruction": "p", "input": "", "output": "a"}, PA),
    ("alpaca", {"instruction": "", "input": "p", "output": "a"}, PA),
    ("alpaca", {"instruction": "p", "output": "a"}, PA),  # Belle
    (
        "alpaca",
        {"instruction": "3", "output": "c", "system": "s", "history": [["1", "a"], ["2", "b"]]},
        [
            ("system", "s"),
            ("user", "1"),
            ("assistant", "a"),
            ("user", "2"),
            ("assistant", "b"),
            ("user", "3"),
            ("assistant", "c"),
        ],
    ),
    (
        "messages",
        {
            "messages": [
                user("q"),
                answer(
                    None,
                    tool_calls=[{"function": {"name": "f", "arguments": '{"x": 1}'}}],
                ),
                {"role": "tool", "content": "7"},
                answer([{"type": "text", "text": "seven"}]),
            ]
        },
        [
            ("user", "q"),
            ("assistant", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'),
            ("tool", "7"),
            ("assistant", "seven"),
        ],
    ),
    (  # a table's cell holds them as JSON
        "messages",
        {"messages": '[{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]'},
        PA,
    ),
    (
        "sharegpt",
        {
            "system": "s",
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "f"}'},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "seven"},
            ],
        },
        [
            ("system", "s"),
            ("user", "q"),
            ("assistant", '<tool_call>\n{"name": "f"}\n</tool_call>'),
            ("tool", "7"),
            ("assistant", "seven"),
        ],
    ),
    ("sharegpt", {"conversations": [user("p"), answer("a")]}, PA),
    (  # a table has all fields in all messages
        "sharegpt",
        {"conversations": [{"from": None, "value": None, **user("p")}, answer("a", weight=None)]},
        PA,
    ),
    ("prompt_completion", {"prompt": "p", "completion": "a"}, PA),
    ("prompt_completion", {"prompt": "p", "response": "a"}, PA),
    (
        "prompt_completion",
        {"query": "p", "response": "a", "system": "s", "history": [["1", "2"]]},
        [("system", "s"), ("user", "1"), ("assistant", "2"), *PA],
    ),
    (
        "prompt_completion",
        {"prompt": [{"role": "system", "content": "s"}, user("p")], "completion": [answer("a")]},
        [("system", "s"), *PA],
    ),
    ("prompt_completion", {"prompt": "p", "completion": answer("a")}, PA),
    ("question_answer", {"question": "p", "answer": "a"}, PA),
    ("y_agent", {"ID": "1", "输入": "p", "输出": "a", "特征概要": None, "是否审核": "是"}, PA),
]


@pytest.mark.parametrize(("shape", "row", "turns"), CASES)
def test_a_row_is_recognised_and_becomes_its_turns(
    shape: str, row: dict[str, Any], turns: Said
) -> None:
    assert detect_shape(row) == shape
    parsed = parse_row(row, shape)
    assert said(parsed.turns) == turns
    assert parsed == ParsedRow(parsed.turns)
    assert Row("f:1", parsed.turns).kind == "conversation"


def test_every_shape_can_be_named_in_the_config_and_no_other() -> None:
    assert {"auto", *SHAPES} == set(typing.get_args(RowFormat))


@pytest.mark.parametrize(
    "row",
    [{"text": "doc"}, {"output": "doc"}, {"ID": 7, "output": "doc"}, {"text": "doc", "label": 3}],
)
def test_raw_text_and_the_published_trainers_pretraining_rows_are_documents(
    row: dict[str, Any],
) -> None:
    assert detect_shape(row) == "text"
    assert parse_row(row, "text") == ParsedRow(text="doc")


# --- tools ---------------------------------------------------------------------------------------


def test_tools_are_offered_in_the_system_turn_one_schema_a_line() -> None:
    tool = {"name": "f", "parameters": {}}
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": json.dumps([tool, {"type": "function", "function": tool}]),
    }
    turns = parse_row(row, "sharegpt").turns
    schema = '{"type": "function", "function": {"name": "f", "parameters": {}}}'
    assert [turn.role for turn in turns] == ["system", "user", "assistant"]
    assert turns[0].content.startswith("Be brief.\n\n# Tools\n")
    assert f"<tools>\n{schema}\n{schema}\n</tools>" in turns[0].content


def test_a_function_call_after_an_answer_joins_the_same_turn() -> None:
    spoken = [("human", "q"), ("gpt", "wait"), ("function_call", "{}"), ("observation", "1")]
    row = {"conversations": [{"from": who, "value": what} for who, what in spoken]}
    turns = parse_row(row, "sharegpt").turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1].content == "wait\n<tool_call>\n{}\n</tool_call>"


# --- what is trained, and how good it is ---------------------------------------------------------


@pytest.mark.parametrize("mark", [{"loss": False}, {"weight": 0}, {"loss": "no", "weight": 1}])
def test_an_answer_with_loss_or_weight_0_is_kept_and_not_trained(mark: dict[str, Any]) -> None:
    row = {"messages": [user("1"), answer("2", **mark), user("3"), answer("4", weight=1)]}
    turns = parse_row(row, "messages").turns
    assert [turn.trained for turn in turns] == [True, False, True, True]


def test_marks_of_other_roles_say_nothing() -> None:
    row = {"messages": [user("1") | {"weight": 0}, answer("2")]}
    assert [turn.trained for turn in parse_row(row, "messages").turns] == [True, True]


@pytest.mark.parametrize(("said_mark", "call_mark"), [(0, 1), (1, 0)])
def test_an_answer_joined_with_its_call_is_trained_only_where_both_are(
    said_mark: int, call_mark: int
) -> None:
    spoken = [("human", "1", 1), ("gpt", "2", said_mark), ("function_call", "{}", call_mark)]
    spoken += [("observation", "3", 1), ("gpt", "4", 1)]
    row = {
        "conversations": [{"from": who, "value": what, "loss": mark} for who, what, mark in spoken]
    }
    turns = parse_row(row, "sharegpt").turns
    assert [turn.trained for turn in turns] == [True, False, True, True]


@pytest.mark.parametrize(
    ("field", "value", "label"),
    [
        ("label", True, True),
        ("label", False, False),
        ("label", 1, True),
        ("label", 0, False),
        ("label", "True", True),
        ("label", "false", False),
        ("kto_tag", False, False),
        ("kto_tag", "1", True),
        ("label", None, None),
        ("label", "", None),
    ],
)
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "a"},
        {"messages": [user("p"), answer("a")]},
        {"conversations": [user("p"), answer("a")]},
        {"instruction": "p", "output": "a"},
        {"question": "p", "answer": "a"},
    ],
)
def test_a_label_says_of_any_conversation_whether_its_answer_is_good(
    row: dict[str, Any], field: str, value: object, label: bool | None
) -> None:
    row = row | {field: value}
    parsed = parse_row(row, str(detect_shape(row)))
    assert said(parsed.turns) == PA
    assert parsed.label is label
    kind = "conversation" if label is None else "kto"
    assert Row("f:1", parsed.turns, label=parsed.label).kind == kind


# --- preferences ---------------------------------------------------------------------------------

HUMAN = {"from": "human", "value": "p"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": [user("p")], "chosen": [answer("a")], "rejected": [answer("b")]},
        {"instruction": "p", "input": "", "chosen": "a", "rejected": "b"},
        {
            "conversations": [HUMAN],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"messages": [user("p")], "chosen": answer("a"), "rejected": answer("b")},
        {"messages": [user("p"), answer("a")], "rejected_response": "b"},
        {"messages": [user("p"), answer("a")], "rejected_response": [answer("b")]},
        {"chosen": [user("p"), answer("a")], "rejected": [user("p"), answer("b")]},
        {
            "prompt": "p",
            "messages": [user("p"), answer("a")],
            "chosen": [user("p"), answer("a")],
            "rejected": [user("p"), answer("b")],
            "score_chosen": 8.0,
        },
    ],
)
def test_a_preference_is_a_prompt_with_the_chosen_answer_and_the_rejected_one(
    row: dict[str, Any],
) -> None:
    assert detect_shape(row) == "preference"
    parsed = parse_row(row, "preference")
    assert said(parsed.turns) == PA
    assert said(parsed.rejected) == [("assistant", "b")]
    assert Row("f:1", parsed.turns, rejected=parsed.rejected).kind == "preference"


def test_whole_conversations_split_where_they_begin_to_differ() -> None:
    same = [{"role": "system", "content": "s"}, user("1"), answer("2"), user("3")]
    row = {
        "chosen": [*same, answer("4"), user("5"), answer("6")],
        "rejected": [*same, answer("four"), user("5"), answer("6")],
    }
    parsed = parse_row(row, "preference")
    assert [turn.content for turn in parsed.turns] == ["s", "1", "2", "3", "4", "5", "6"]
    assert [turn.content for turn in parsed.rejected] == ["four", "5", "6"]


def test_conversations_that_are_the_same_keep_their_last_answer_as_both_answers() -> None:
    whole = [user("1"), answer("2"), user("3"), answer("4")]
    parsed = parse_row({"chosen": whole, "rejected": whole}, "preference")
    assert [turn.content for turn in parsed.turns] == ["1", "2", "3", "4"]
    assert [turn.content for turn in parsed.rejected] == ["4"]


def test_a_preference_row_keeps_its_system_prompt_and_history() -> None:
    row = {"prompt": "3", "chosen": "4", "rejected": "5", "system": "s", "history": [["1", "2"]]}
    parsed = parse_row(row, "preference")
    assert [turn.content for turn in parsed.turns] == ["s", "1", "2", "3", "4"]


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "turns", "extra"),
    [
        ({"prompt": "p"}, [("user", "p")], "{}"),
        (
            {"prompt": "p", "answer": 7, "solution": "è", "label": "b"},
            [("user", "p")],
            '{"answer": 7, "solution": "è", "label": "b"}',
        ),
        (
            {
                "prompt": [user("1"), answer("2"), user("3")],
                "system": "s",
                "day": datetime.date.max,
            },
            [("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "3")],
            '{"day": "9999-12-31"}',
        ),
    ],
)
def test_a_prompt_keeps_all_other_columns_for_the_reward(
    row: dict[str, Any], turns: Said, extra: str
) -> None:
    assert detect_shape(row) == "prompt"
    parsed = parse_row(row, "prompt")
    assert said(parsed.turns) == turns
    assert parsed == ParsedRow(parsed.turns, extra=extra)
    assert Row("f:1", parsed.turns, extra=parsed.extra).kind == "prompt"


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "row", "rule", "reason"),
    [
        ("alpaca", {"instruction": "i", "output": 5}, "unknown_shape", "'output' is a int"),
        ("alpaca", {"instruction": "i"}, "unknown_shape", "needs instruction, output"),
        (
            "alpaca",
            {"instruction": "i", "output": "o", "history": ["x"]},
            "unknown_shape",
            "'history'",
        ),
        ("messages", {"messages": "hi"}, "unknown_shape", "'messages' is a str"),
        ("messages", {"messages": "[hi]"}, "unknown_shape", "'messages' is a str"),
        ("messages", {"messages": ["hi"]}, "unknown_shape", "messages[0] is a str"),
        ("messages", {"messages": [{"role": "poet"}]}, "unknown_shape", "the role 'poet'"),
        ("messages", {"messages": [], "images": ["a.jpg"]}, "unknown_shape", "images"),
        (
            "messages",
            {"messages": [answer("a", weight=0.5)]},
            "unknown_shape",
            "messages[0] has the weight 0.5",
        ),
        (
            "messages",
            {"messages": [user("q"), answer("a", loss=False)]},
            "not_for_training",
            "loss or weight is 0",
        ),
        ("sharegpt", {"conversations": [], "tools": "{"}, "unknown_shape", "'tools' is not JSON"),
        (
            "prompt_completion",
            {"prompt": "p", "completion": "c", "label": "good"},
            "unknown_shape",
            "'label' is 'good'",
        ),
        (
            "prompt_completion",
            {"prompt": "p", "completion": "c", "label": math.nan},
            "unknown_shape",
            "'label' is nan",
        ),
        ("preference", {"prompt": "p", "chosen": "a"}, "unknown_shape", "needs 'rejected' too"),
        ("preference", {"chosen": "a", "rejected": "b"}, "unknown_shape", "but no prompt"),
        (
            "preference",
            {"chosen": [user("1"), answer("2")], "rejected": [user("one"), answer("2")]},
            "unknown_shape",
            "no common beginning",
        ),
        (
            "preference",
            {"prompt": "p", "chosen": [user("p"), answer("2")], "rejected": "b"},
            "unknown_shape",
            "the chosen answer begins with 'user'",
        ),
        (
            "preference",
            {"messages": [user("1")], "rejected_response": "b"},
            "unknown_shape",
            "'rejected_response'",
        ),
        (
            "preference",
            {"conversations": [], "chosen": "a", "rejected": "b"},
            "unknown_shape",
            "no message before its answers",
        ),
        ("prompt", {"prompt": [user("1"), answer("2")]}, "unknown_shape", "ends with 'assistant'"),
        ("prompt", {"prompt": []}, "unknown_shape", "holds no message"),
        ("text", {"text": " \n"}, "empty_text", "a document without text"),
        ("text", {"text": "\ud800"}, "unreadable_row", "'\\ud800'"),
        ("prompt", {"prompt": "p", "answer": "\ud800"}, "unreadable_row", "'\\ud800'"),
        (
            "preference",
            {"prompt": "p", "chosen": "a", "rejected": "\ud800"},
            "unreadable_row",
            "'\\ud800'",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_which_field_is_wrong(
    shape: str, row: dict[str, Any], rule: str, reason: str
) -> None:
    with pytest.raises(RowFault) as caught:
        parse_row(row, shape)
    assert caught.value.rule == rule
    assert reason in caught.value.reason


@pytest.mark.parametrize("row", [{"x": 1}, {"instruction": "i"}, {"images": ["a.jpg"]}, {}])
def test_rows_that_cannot_be_trained_on_have_no_shape(row: dict[str, Any]) -> None:
    assert detect_shape(row) is None


def test_a_named_shape_overrides_the_one_that_would_be_recognised() -> None:
    row = {"messages": [user("p"), answer("a")], "rejected": False}
    assert detect_shape(row) == "preference"
    assert said(parse_row(row, "messages").turns) == PA


@pytest.mark.parametrize(("shape", "field"), [("prompt", "answer"), ("messages", "messages")])
def test_a_row_nested_too_deeply_is_unreadable(shape: str, field: str) -> None:
    nested: object = "x"
    for _ in range(5000):
        nested = [nested]
    row = {"prompt": "p", field: [{"role": nested}] if shape == "messages" else nested}
    with pytest.raises(RowFault, match="nested too deeply") as caught:
        parse_row(row, shape)
    assert caught.value.rule == "unreadable_row"
