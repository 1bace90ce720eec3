"""Every row shape becomes the turns that its fields say, or names what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ytrainer_core.data.formats import RowFault, detect_shape, parse_row

CASES: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    (
        "alpaca",
        {"instruction": "Add.", "input": "1+1", "output": "2"},
        [("user", "Add.\n1+1"), ("assistant", "2")],
    ),
    (
        "alpaca",
        {"instruction": "Hi", "input": "", "output": "Ho"},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    ("alpaca", {"instruction": "Hi", "output": "Ho"}, [("user", "Hi"), ("assistant", "Ho")]),
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
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
                },
                {"role": "tool", "content": "7"},
                {"role": "assistant", "content": [{"type": "text", "text": "seven"}]},
            ]
        },
        [
            ("user", "q"),
            ("assistant", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'),
            ("tool", "7"),
            ("assistant", "seven"),
        ],
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
    (
        "sharegpt",
        {
            "conversations": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
            ]
        },
        [("user", "q"), ("assistant", "a")],
    ),
    ("prompt_completion", {"prompt": "p", "completion": "c"}, [("user", "p"), ("assistant", "c")]),
    ("prompt_completion", {"query": "p", "response": "c"}, [("user", "p"), ("assistant", "c")]),
    (
        "prompt_completion",
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "c"}],
        },
        [("system", "s"), ("user", "p"), ("assistant", "c")],
    ),
    ("question_answer", {"question": "q", "answer": "a"}, [("user", "q"), ("assistant", "a")]),
]


@pytest.mark.parametrize(("shape", "row", "turns"), CASES)
def test_a_row_is_recognised_and_becomes_its_turns(
    shape: str, row: dict[str, Any], turns: list[tuple[str, str]]
) -> None:
    assert detect_shape(row) == shape
    parsed, text = parse_row(row, shape)
    assert [(turn.role, turn.content) for turn in parsed] == turns
    assert text == ""


@pytest.mark.parametrize(
    "row",
    [{"text": "doc"}, {"output": "doc"}, {"ID": 7, "output": "doc"}, {"id": 7, "text": "doc"}],
)
def test_raw_text_and_the_published_trainers_pretraining_rows_are_documents(
    row: dict[str, Any],
) -> None:
    assert detect_shape(row) == "text"
    assert parse_row(row, "text") == ((), "doc")


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
    turns, _ = parse_row(row, "sharegpt")
    schema = '{"type": "function", "function": {"name": "f", "parameters": {}}}'
    assert [turn.role for turn in turns] == ["system", "user", "assistant"]
    assert turns[0].content.startswith("Be brief.\n\n# Tools\n")
    assert f"<tools>\n{schema}\n{schema}\n</tools>" in turns[0].content


def test_a_function_call_after_an_answer_joins_the_same_turn() -> None:
    said = [("human", "q"), ("gpt", "wait"), ("function_call", "{}"), ("observation", "1")]
    row = {"conversations": [{"from": who, "value": what} for who, what in said]}
    turns, _ = parse_row(row, "sharegpt")
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1].content == "wait\n<tool_call>\n{}\n</tool_call>"


@pytest.mark.parametrize(
    ("shape", "row", "rule", "said"),
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
        ("messages", {"messages": ["hi"]}, "unknown_shape", "messages[0] is a str"),
        ("messages", {"messages": [{"role": "poet"}]}, "unknown_shape", "the role 'poet'"),
        ("messages", {"messages": [], "images": ["a.jpg"]}, "unknown_shape", "images"),
        ("sharegpt", {"conversations": [], "tools": "{"}, "unknown_shape", "'tools' is not JSON"),
        ("alpaca", {"chosen": "a", "rejected": "b"}, "unknown_shape", "preference pair"),
        (
            "prompt_completion",
            {"prompt": "p", "completion": "c", "label": False},
            "not_for_training",
            "'label': false",
        ),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "a", "weight": 0}]},
            "not_for_training",
            "messages[0]",
        ),
        ("text", {"text": " \n"}, "empty_text", "a document without text"),
        ("text", {"text": "\ud800"}, "unreadable_row", "'\\ud800'"),
    ],
)
def test_a_row_that_does_not_fit_says_which_field_is_wrong(
    shape: str, row: dict[str, Any], rule: str, said: str
) -> None:
    with pytest.raises(RowFault) as caught:
        parse_row(row, shape)
    assert caught.value.rule == rule
    assert said in caught.value.reason


@pytest.mark.parametrize("row", [{"chosen": "a", "rejected": "b", "prompt": "p"}, {"x": 1}, {}])
def test_rows_that_cannot_be_trained_on_have_no_shape(row: dict[str, Any]) -> None:
    assert detect_shape(row) is None
