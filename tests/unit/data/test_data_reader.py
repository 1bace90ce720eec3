"""Every row knows its origin, rows that are not wanted are left out, bad ones say why."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_examples import SHARED, needs_shared, write_sheets
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.config import DataConfig
from ytrainer_core.data.formats import SHAPES, Rejected, Row, Turn
from ytrainer_core.data.reader import RawRow, find_sources, parse_raw, raw_rows, read_rows
from ytrainer_core.errors import DataError

A = {"instruction": "i", "output": "o"}


def read(path: str, **knobs: object) -> list[Row | Rejected]:
    return list(read_rows([path], DataConfig.model_validate(knobs)))


def kept(path: str, **knobs: object) -> list[Row]:
    """The rows, none of which may be rejected."""
    rows = [row for row in read(path, **knobs) if isinstance(row, Row)]
    assert len(rows) == len(read(path, **knobs))
    return rows


def answers(path: str, **knobs: object) -> list[str]:
    """What the last turn of every row says."""
    return [row.turns[-1].content for row in kept(path, **knobs)]


# --- one file after the other --------------------------------------------------------------------


def test_rows_know_the_file_and_the_line_they_begin_on(jsonl: Callable[..., str]) -> None:
    path = jsonl([A, "", "   ", A])
    turns = (Turn("user", "i"), Turn("assistant", "o"))
    raw = '{"instruction": "i", "output": "o"}'
    assert read(path) == [Row(f"{path}:1", turns, raw=raw), Row(f"{path}:4", turns, raw=raw)]
    assert read(path)[0].raw == raw


def test_a_document_of_a_txt_file_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("eins\n\nzwei\n")
    rows = read(str(tmp_path / "a.txt"))
    assert rows == [
        Row(f"{tmp_path}/a.txt:1", (), "eins"),
        Row(f"{tmp_path}/a.txt:3", (), "zwei"),
    ]


def test_a_broken_jsonl_line_is_one_rejected_row_with_its_text(
    jsonl: Callable[..., str],
) -> None:
    path = jsonl([A, '{"instruction": "i", "output"', A])
    rows = read(path)
    assert [type(row) for row in rows] == [Row, Rejected, Row]
    assert rows[1] == Rejected(
        f"{path}:2",
        "unreadable_row",
        "is not JSON (Expecting ':' delimiter at column 30). Write one whole JSON object per line.",
        '{"instruction": "i", "output"',
    )


def test_a_ragged_line_of_a_table_is_one_rejected_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response\n1,2,3\n1,2\n")
    bad, good = read(str(path))
    assert isinstance(bad, Rejected)
    assert (bad.origin, bad.rule, bad.raw) == (f"{path}:2", "unreadable_row", "1,2,3")
    assert "has 3 cells, but the header names 2 columns" in bad.reason
    assert isinstance(good, Row)


def test_a_table_without_a_header_says_what_its_first_line_should_be(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1+1,2\n2+2,4\n")
    (row,) = read(str(path))
    assert isinstance(row, Rejected)
    assert "has the fields '1+1', '2', which no format has" in row.reason
    assert row.reason.endswith("write the names of the columns into the file's first line.")


def test_a_row_that_is_no_object_or_of_no_shape_is_rejected(jsonl: Callable[..., str]) -> None:
    number, unknown = read(jsonl(["7", {"x": 1}]))
    assert isinstance(number, Rejected) and isinstance(unknown, Rejected)
    assert (number.rule, number.raw) == ("unknown_shape", "7")
    assert number.reason == "is a int, expected an object with named fields."
    assert "has the fields 'x', which no format has" in unknown.reason
    assert all(f"{shape}: " in unknown.reason for shape in SHAPES)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.txt", ""), ("a.csv", "q,a\n")]
)
def test_a_file_without_rows_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: holds no row"):
        read(str(tmp_path / name))


def test_mixed_shapes_show_the_first_row_of_each(jsonl: Callable[..., str]) -> None:
    path = jsonl([{"x": 1}, A, A, {"question": "q", "answer": "a"}, {"text": "t"}, {"text": "u"}])
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: holds rows of 3 shapes. ")
    assert 'line 2 is alpaca: {"instruction": "i", "output": "o"}' in message
    assert 'line 4 is question_answer: {"question": "q", "answer": "a"}' in message
    assert 'line 5 is text: {"text": "t"}' in message
    assert '"u"' not in message


def test_a_named_format_quarantines_the_rows_of_other_shapes(jsonl: Callable[..., str]) -> None:
    rows = read(jsonl([{"text": "t"}, A]), format="alpaca")
    assert [getattr(row, "rule", "kept") for row in rows] == ["unknown_shape", "kept"]


def test_a_txt_file_is_no_other_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds raw text, but data\.format is 'alpaca'"):
        read(str(tmp_path / "a.txt"), format="alpaca")


def test_max_rows_caps_the_rows_read_over_all_files(jsonl: Callable[..., str]) -> None:
    paths = [jsonl([A, "{", A], "a.jsonl"), jsonl([A, A], "b.jsonl")]
    rows = list(read_rows(paths, DataConfig(max_rows=4)))
    assert [row.origin for row in rows] == [f"{paths[0]}:{n}" for n in (1, 2, 3)] + [
        f"{paths[1]}:1"
    ]


# --- columns and where ---------------------------------------------------------------------------


def test_columns_are_read_as_the_fields_that_the_config_says(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Frage,Antwort,prompt\nf,a,x\n")
    assert answers(str(path), columns={"prompt": "Frage", "response": "Antwort"}) == ["a"]
    (row,) = kept(str(path), columns="prompt=Frage")
    assert (row.kind, row.turns, row.extra) == (
        "prompt",
        (Turn("user", "f"),),
        '{"Antwort": "a"}',
    )


@pytest.mark.parametrize(
    ("where", "answered"),
    [
        ("level=hard", "bd"),
        ("level=HARD", "bd"),
        ("level=", "c"),
        ("checked=yes", "ab"),
        ("checked=是", "ab"),
        ("checked=0", "cd"),
        ("checked=no,level=hard", "d"),
        ("level=hard,level=easy", "abd"),
        ("count=3", "a"),
    ],
)
def test_where_keeps_the_rows_whose_columns_say_the_same(
    jsonl: Callable[..., str], where: str, answered: str
) -> None:
    columns = [
        {"level": "easy", "checked": True, "count": 3},
        {"level": "Hard ", "checked": "Yes", "count": "30"},
        {"level": None, "checked": 0, "count": None},
        {"level": "hard", "checked": "否"},
    ]
    rows = [
        {"question": "q", "answer": answer, **row}
        for answer, row in zip("abcd", columns, strict=True)
    ]
    assert "".join(answers(jsonl(rows), where=where)) == answered


def test_a_y_agent_export_is_filtered_by_review_correction_and_category(tmp_path: Path) -> None:
    header = [
        "ID",
        "输入",
        "输出",
        "特征概要",
        "分类名称",
        "分类ID",
        "是否审核",
        "是否更正",
        "创建时间",
    ]
    rows = [
        [1, "q1", "a1", None, "Money", 7, "是", "否", "2026-01-31"],
        [2, "q2", "a2", None, "Money", 7, "否", "否", "2026-01-31"],
        [3, "q3", "a3", None, "Travel", 8, "是", "是", "2026-01-31"],
    ]
    path = str(write_sheets(tmp_path / "export.xlsx", Sheet1=[header, *rows]))
    assert [(row.origin, row.kind) for row in kept(path)] == [
        (f"{path}:{n}", "conversation") for n in (2, 3, 4)
    ]
    assert answers(path, where="reviewed=yes") == ["a1", "a3"]
    assert answers(path, where={"reviewed": True, "corrected": False}) == ["a1"]
    assert answers(path, where="category=travel") == ["a3"]
    assert answers(path, where="是否审核=no", format="y_agent") == ["a2"]


@pytest.mark.parametrize("write", ["csv", "jsonl", "parquet"])
def test_columns_that_the_file_has_not_are_named_with_those_it_has(
    tmp_path: Path, write: str
) -> None:
    path = tmp_path / f"a.{write}"
    if write == "csv":
        path.write_text("Frage,Antwort\n1,2\n")
    elif write == "jsonl":
        path.write_text('{broken\n{"Frage": 1}\n{"Antwort": 2}\n')
    else:
        pq.write_table(pa.table({"Frage": ["1"], "Antwort": ["2"]}), path)
    with pytest.raises(DataError) as caught:
        read(str(path), columns="prompt=Frage,response=Answer", where="reviewed=yes,Antwort=2")
    has = "Its columns are 'Frage', 'Antwort'."
    first, second = caught.value.faults
    assert first.startswith(f"{path}: has no column 'Answer', which data.columns names. {has}")
    assert second.startswith(f"{path}: has no column 'reviewed', which data.where names. {has}")


def test_a_file_without_a_readable_row_is_not_blamed_for_its_columns(
    jsonl: Callable[..., str],
) -> None:
    (row,) = read(jsonl(["{broken"]), columns="prompt=Frage", where="level=hard")
    assert isinstance(row, Rejected) and row.rule == "unreadable_row"


def test_raw_text_has_no_columns_to_rename_or_to_filter_by(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("eins\n")
    assert [row.text for row in kept(str(path), columns="prompt=Frage")] == ["eins"]
    with pytest.raises(DataError, match=r"has no column 'level', .* Its columns are 'text'"):
        read(str(path), where="level=hard")


# --- rows for other processes --------------------------------------------------------------------


def test_a_raw_row_is_parsed_by_another_process_as_by_this_one(jsonl: Callable[..., str]) -> None:
    config = DataConfig()
    (source,) = find_sources([jsonl([A])])
    (raw,) = raw_rows(source, config)
    row, shape = pickle.loads(pickle.dumps(parse_raw))(
        *pickle.loads(pickle.dumps(("f", raw, config)))
    )
    assert shape == "alpaca"
    assert row == Row("f:1", (Turn("user", "i"), Turn("assistant", "o")))
    assert pickle.loads(pickle.dumps(row)) == row


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["user", "gpt", "a", "", "[1]", '{"role": "user"}', "\ud800", "true"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "from",
                    "value",
                    "loss",
                    "weight",
                    "tool_calls",
                    "function",
                    "name",
                    "text",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=9,
)
KNOWN_FIELDS = [
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "tools",
    "prompt",
    "completion",
    "response",
    "query",
    "question",
    "answer",
    "chosen",
    "rejected",
    "rejected_response",
    "label",
    "kto_tag",
    "text",
    "输入",
    "输出",
]


@settings(max_examples=500, deadline=None)
@given(
    value=json_values
    | st.dictionaries(st.sampled_from(KNOWN_FIELDS) | st.text(max_size=3), json_values, max_size=6),
    shape=st.sampled_from(["auto", *SHAPES]),
    where=st.sampled_from(["", "label=1", "reviewed=no"]),
)
def test_any_json_value_is_a_row_or_is_rejected_with_a_sentence(
    value: Any, shape: str, where: str
) -> None:
    config = DataConfig.model_validate({"format": shape, "where": where})
    raw = RawRow(3, json.dumps(value))
    row, _ = parse_raw("f.jsonl", raw, config)
    if row is None:
        assert where
    elif isinstance(row, Rejected):
        assert row.rule in ("unreadable_row", "unknown_shape", "empty_text", "not_for_training")
        assert row.reason.endswith(".") and not row.reason.endswith("..")
        assert (row.origin, row.raw) == ("f.jsonl:3", raw.raw)
    else:
        said = (row.text, row.extra, *(turn.content for turn in (*row.turns, *row.rejected)))
        assert all(text.encode() is not None for text in said)


@pytest.mark.parametrize("depth", [900, 990, 100_000])
@pytest.mark.parametrize("field", ["messages", "prompt", "tools", "answer"])
def test_a_row_that_is_nested_too_deeply_is_a_row_or_rejected(field: str, depth: int) -> None:
    nested = f'{{"prompt": "p", "{field}": {"[" * depth}{"]" * depth}}}'
    row, _ = parse_raw("f.jsonl", RawRow(1, nested), DataConfig())
    assert isinstance(row, Row | Rejected)
    if depth == 100_000:
        assert isinstance(row, Rejected) and row.rule == "unreadable_row"


# --- real corpora --------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows", "kinds", "roles"),
    [
        ("alpaca_en_demo.json", 999, {"conversation"}, {"user", "assistant"}),
        ("gsm8k_test.jsonl", 660, {"conversation"}, {"user", "assistant"}),
        ("gsm8k_train.jsonl", 7456, {"conversation"}, {"user", "assistant"}),
        (
            "glaive_toolcall_en_demo.json",
            300,
            {"conversation"},
            {"system", "user", "assistant", "tool"},
        ),
        ("identity.json", 91, {"conversation"}, {"user", "assistant"}),
        ("kto_en_demo.json", 300, {"kto"}, {"user", "assistant"}),
        ("dpo_en_demo.json", 300, {"preference"}, {"system", "user", "assistant"}),
        ("c4_demo.jsonl", 300, {"text"}, set()),
        ("wiki_demo.txt", 30, {"text"}, set()),
    ],
)
def test_real_corpora_load_whole(name: str, rows: int, kinds: set[str], roles: set[str]) -> None:
    found = kept(str(SHARED / name))
    assert len(found) == rows
    assert {row.kind for row in found} == kinds
    assert {turn.role for row in found for turn in row.turns} == roles
    assert all(bool(row.turns) != bool(row.text) for row in found)


@needs_shared
def test_rows_of_real_corpora_say_what_stands_in_the_file() -> None:
    alpaca = kept(str(SHARED / "alpaca_en_demo.json"))[0]
    assert alpaca.origin.endswith(":2")
    assert alpaca.turns[0] == Turn("user", "Describe a process of making crepes.")
    assert alpaca.turns[1].content.startswith("Making crepes is an easy and delicious process!")

    identity = kept(str(SHARED / "identity.json"))[-1]
    assert identity.turns[0] == Turn("user", "你是OpenAI开发的ChatGPT吗？")

    gsm8k = kept(str(SHARED / "gsm8k_test.jsonl"))[1]
    assert gsm8k.origin.endswith(":2")
    assert gsm8k.turns[1].content == (
        "It takes 2/2=<<2/2=1>>1 bolt of white fiber\n"
        "So the total amount of fabric is 2+1=<<2+1=3>>3 bolts of fabric\n#### 3"
    )
    assert kept(str(SHARED / "gsm8k_train.jsonl"))[-1].turns[1].content.endswith("\n#### 3000")

    c4 = kept(str(SHARED / "c4_demo.jsonl"))[0]
    assert c4.text.startswith("Don’t think you need all the bells and whistles? No problem.")
    wiki = kept(str(SHARED / "wiki_demo.txt"))[0]
    assert wiki.text.startswith("Anarchism is a political philosophy and movement")


@needs_shared
def test_tool_calls_of_a_real_corpus_keep_their_roles_and_their_schemas() -> None:
    first = kept(str(SHARED / "glaive_toolcall_en_demo.json"))[0]
    assert [turn.role for turn in first.turns] == [
        "system",
        *("user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant"),
    ]
    assert '{"type": "function", "function": {"name": "search_recipes", ' in first.turns[0].content
    assert first.turns[4].content == (
        '<tool_call>\n{"name": "search_recipes", "arguments": {"ingredients": ["chicken", '
        '"bell peppers", "rice"]}}\n</tool_call>'
    )
    assert first.turns[5].content.startswith('{"recipes": [{"name": "Chicken and Bell Pepper')


@needs_shared
def test_labels_of_a_real_kto_corpus_are_half_good() -> None:
    rows = kept(str(SHARED / "kto_en_demo.json"))
    assert [sum(row.label is label for row in rows) for label in (True, False)] == [150, 150]
    assert rows[0].label is True
    assert rows[0].turns[1].content.startswith("Ooh ooh ah ah! *giggle*")
    assert (rows[-1].label, rows[-1].turns[1].content) == (False, "ભારત")


@needs_shared
def test_a_real_preference_corpus_has_one_rejected_answer_a_row() -> None:
    rows = kept(str(SHARED / "dpo_en_demo.json"))
    assert all([turn.role for turn in row.rejected] == ["assistant"] for row in rows)
    first, second = rows[:2]
    assert [turn.role for turn in first.turns] == ["user", "assistant"]
    assert first.turns[1].content.startswith("That sounds like a fun and engaging idea!")
    assert first.rejected[0].content.startswith("Hello! I'd be happy to help you create")
    assert second.origin.endswith(":18")
    assert second.turns[0].content.startswith("You are a teacher. Given a task, you explain")


@needs_shared
def test_a_real_vision_corpus_is_rejected_row_by_row() -> None:
    rows = read(str(SHARED / "mllm_demo.json"))
    assert len(rows) == 6
    assert all(isinstance(row, Rejected) and "holds images" in row.reason for row in rows)
