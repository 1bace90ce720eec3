"""Every row knows its line, and every unreadable file says where and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from data_examples import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.config import DataConfig
from ytrainer_core.data.formats import Rejected, Row
from ytrainer_core.data.reader import Source, read_lines, read_rows
from ytrainer_core.errors import DataError

A = {"instruction": "i", "output": "o"}


def read(path: str, **knobs: object) -> list[Row | Rejected]:
    return list(read_rows([path], DataConfig.model_validate(knobs)))


def lines(path: str, **knobs: object) -> list[int]:
    return [int(row.origin.rpartition(":")[2]) for row in read(path, **knobs)]


def test_array_rows_know_the_line_on_which_their_object_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '\n[\n  {"instruction": "a",\n   "output": "b"},\n\n'
        '  {"instruction": "a",\n   "output": "b"}, {"instruction": "c", "output": "d"}\n]\n'
    )
    assert lines(str(path)) == [3, 6, 7]


def test_jsonl_rows_know_their_line_and_blank_lines_are_no_rows(
    jsonl: Callable[..., str],
) -> None:
    assert lines(jsonl([A, "", "   ", A])) == [1, 4]


def test_a_txt_file_holds_one_document_per_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("eins\r\n\nzwei\u2028drei\nvier".encode())
    rows = read(str(path))
    assert [row.text for row in rows if isinstance(row, Row)] == ["eins", "zwei\u2028drei", "vier"]
    assert [row.origin for row in rows] == [f"{path}:{n}" for n in (1, 3, 4)]


def test_json_objects_without_an_array_are_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"{json.dumps(A)}\n{json.dumps(A)}\n")
    assert lines(str(path)) == [1, 2]


def test_a_broken_jsonl_line_is_one_rejected_row_with_its_text(
    jsonl: Callable[..., str],
) -> None:
    path = jsonl([A, '{"instruction": "i", "output"', A])
    rows = read(path)
    assert isinstance(rows[0], Row)
    assert isinstance(rows[2], Row)
    assert rows[1] == Rejected(
        f"{path}:2", "unreadable_row", rows[1].reason, '{"instruction": "i", "output"'
    )
    assert "column 30" in rows[1].reason


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[\n{"a": 1},\n{"a": \n}\n]', 4, "row that begins on line 3"),
        ('[\n{"a": 1}\n{"a": 1}]', 3, "comma"),
        ('[\n{"a": 1},\n]', 2, "Delete it"),
        ('[\n{"a": 1}', 2, "cut off"),
        ('[\n{"a": "x', 2, "not valid JSON"),
        ('[\n{"a": 1},\n', 3, "cut off"),
        ("[{}]\n]", 2, "follows the end"),
    ],
)
def test_a_broken_array_stops_with_the_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("x")
    names = [str(tmp_path / name) for name in ("a.json", "b.jsonl", "c.csv")]
    with pytest.raises(DataError) as caught:
        list(read_rows(names, DataConfig()))
    assert [fault.split(": ")[0] for fault in caught.value.faults] == names
    assert "'.csv' files cannot be read" in caught.value.faults[2]


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.txt", "")])
def test_a_file_without_rows_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: holds no row"):
        read(str(tmp_path / name))


def test_mixed_shapes_show_the_first_row_of_each(jsonl: Callable[..., str]) -> None:
    path = jsonl([{"x": 1}, A, A, {"question": "q", "answer": "a"}, {"text": "t"}, {"text": "u"}])
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "rows of 3 shapes" in message
    assert 'line 2 is alpaca: {"instruction": "i", "output": "o"}' in message
    assert 'line 4 is question_answer: {"question": "q", "answer": "a"}' in message
    assert 'line 5 is text: {"text": "t"}' in message
    assert '"u"' not in message


def test_a_named_format_quarantines_the_rows_of_other_shapes(jsonl: Callable[..., str]) -> None:
    rows = read(jsonl([{"text": "t"}, A]), format="alpaca")
    assert [getattr(row, "rule", "kept") for row in rows] == ["unknown_shape", "kept"]


def test_max_rows_caps_the_rows_read_over_all_files(jsonl: Callable[..., str]) -> None:
    paths = [jsonl([A, "{", A], "a.jsonl"), jsonl([A, A], "b.jsonl")]
    rows = list(read_rows(paths, DataConfig(max_rows=4)))
    assert [row.origin for row in rows] == [f"{paths[0]}:{n}" for n in (1, 2, 3)] + [
        f"{paths[1]}:1"
    ]


def test_a_folder_is_read_in_the_order_of_its_file_names(
    tmp_path: Path, jsonl: Callable[..., str]
) -> None:
    jsonl([A], "b.jsonl")
    jsonl([A, A], "a.jsonl")
    (tmp_path / "notes.md").write_text("no rows")
    names = [row.origin.rsplit("/", 1)[1] for row in read(str(tmp_path))]
    assert names == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1"]


@pytest.mark.parametrize("before", [0, 3, (1 << 20) - 2, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_wrong_byte_is_named_by_its_offset_in_the_file(
    tmp_path: Path, before: int, bom: bytes
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bom + b"x" * before + "ä".encode("latin-1") + b"rger\n")
    with pytest.raises(
        DataError, match=rf"a\.txt: byte {len(bom) + before} is not utf-8"
    ) as caught:
        read(str(path))
    assert "data.encoding" in str(caught.value)


def test_a_file_that_ends_within_a_character_is_named_by_that_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xe4\xbd")
    with pytest.raises(DataError, match="byte 2 is not utf-8"):
        read(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "cp936"])
def test_a_named_encoding_reads_the_same_rows(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    row = {"question": "你好吗", "answer": "很好" * 300_000}
    path.write_bytes((json.dumps(row, ensure_ascii=False) + "\n").encode(encoding))
    (read_row,) = read(str(path), encoding=encoding)
    assert isinstance(read_row, Row)
    assert [turn.content for turn in read_row.turns] == [row["question"], row["answer"]]


def test_an_unknown_encoding_is_a_data_error(jsonl: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"data\.encoding: no encoding is called 'utf-9'"):
        read(jsonl([A]), encoding="utf-9")


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab\r\n\u2028é", max_size=40))
def test_lines_are_those_between_line_feeds(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(text.encode())
    expected = [line.removesuffix("\r") for line in text.split("\n")]
    found = [line for _, line in read_lines(Source("a.txt", path), "utf-8")]
    assert found == (expected if expected[-1] or text.endswith("\r") else expected[:-1])


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows", "roles"),
    [
        ("alpaca_en_demo.json", 999, {"user", "assistant"}),
        ("gsm8k_test.jsonl", 660, {"user", "assistant"}),
        ("glaive_toolcall_en_demo.json", 300, {"system", "user", "assistant", "tool"}),
        ("identity.json", 91, {"user", "assistant"}),
        ("c4_demo.jsonl", 300, set()),
        ("wiki_demo.txt", 30, set()),
    ],
)
def test_real_corpora_load_whole(name: str, rows: int, roles: set[str]) -> None:
    found = read(str(SHARED / name))
    assert len(found) == rows
    kept = [row for row in found if isinstance(row, Row)]
    assert len(kept) == rows
    assert {turn.role for row in kept for turn in row.turns} == roles
    assert all(bool(row.turns) != bool(row.text) for row in kept)
