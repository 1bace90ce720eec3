"""Every container gives the same rows, each with the line it begins on, or says what is broken."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_examples import packed, write_sheets
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.data.containers import UNPARSED, RawRow, container_of, rows_of
from ytrainer_core.data.encoded import read_lines
from ytrainer_core.data.json_array import array_rows
from ytrainer_core.errors import DataError

PACKINGS = ("", ".gz", ".zst")
FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx")
NOT_TEXT = (".parquet", ".xlsx", *(file + packing for file in FILES for packing in PACKINGS[1:]))


def read(path: Path, encoding: str = "utf-8") -> list[RawRow]:
    return list(rows_of(path.name, path, encoding))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("a.jsonl", ".jsonl"),
        ("A.JSON", ".json"),
        ("a.csv.gz", ".csv"),
        ("a.b.Parquet.ZST", ".parquet"),
        ("a.tar.gz", None),
        ("a.gz", None),
        ("a.md", None),
        ("a", None),
    ],
)
def test_the_suffix_before_the_packing_says_how_a_file_is_read(
    name: str, container: str | None
) -> None:
    assert container_of(Path(name)) == container


# --- lines ---------------------------------------------------------------------------------------


def test_rows_of_jsonl_are_left_unparsed_for_whoever_checks_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\r\n\n  \n{broken\n')
    rows = read(path)
    assert rows == [RawRow(1, '{"a": 1}', UNPARSED), RawRow(4, "{broken", UNPARSED)]
    assert pickle.loads(pickle.dumps(rows[0])).value is UNPARSED


def test_a_txt_file_holds_one_document_per_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "eins\r\n\nzwei\u2028drei\nvier")
    rows = [(row.line, row.value) for row in read(path)]
    assert rows == [(1, {"text": "eins"}), (3, {"text": "zwei\u2028drei"}), (4, {"text": "vier"})]


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab\r\n\u2028é", max_size=40))
def test_lines_are_those_between_line_feeds(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = write(tmp_path_factory.mktemp("lines") / "a.txt", text)
    expected = [line.removesuffix("\r") for line in text.split("\n")]
    found = [line for _, line in read_lines("a.txt", path, "utf-8")]
    assert found == (expected if expected[-1] or text.endswith("\r") else expected[:-1])


# --- .json ---------------------------------------------------------------------------------------


def test_array_rows_know_the_line_on_which_their_object_begins(tmp_path: Path) -> None:
    text = '\n[\n  {"a": 1,\n   "b": 2},\n\n  {"a": 3,\n   "b": 4}, {"a": 5}\n]\n'
    rows = read(write(tmp_path / "a.json", text))
    assert [(row.line, row.value) for row in rows] == [
        (3, {"a": 1, "b": 2}),
        (6, {"a": 3, "b": 4}),
        (7, {"a": 5}),
    ]
    assert rows[0].raw == '{"a": 1,\n   "b": 2}'


def test_rows_that_begin_on_one_line_are_told_apart_by_their_column(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.json", '[{"a": 1}, {"é": 2},\n{"a": 3},{}]'))
    assert [row.place for row in rows] == ["1", "1:12", "2", "2:10"]


def test_json_objects_without_an_array_are_rows_too(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n'))
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, {"a": 2})]


BROKEN = [
    ('[\n{"a": 1},\n{"a": \n}\n]', 4, "column 1 in the row that begins on line 3). Mend"),
    ('[\n{"a": ', 2, "(Expecting value, column 7): the file seems cut off. Mend"),
    ('[\n{"a": 1}\n{"a": 1}]', 3, "expected a comma"),
    ('[\n{"a": 1} {"a": 1}]', 2, "expected a comma between two rows of the array, found '{'"),
    ('[\n{"a": 1},\n]', 2, "Delete it"),
    ('[\n{"a": 1}', 2, "cut off"),
    ('[\n{"a": "x', 2, "not valid JSON"),
    ('[\n{"a": 1},\n', 3, "cut off"),
    ("[{}]\n]", 2, "follows the end of the array: ]"),
    ('[{"a": 1}, {"b": nil}]', 1, "(Expecting value, column 18)"),
    ("[" * 3000, 1, "a row that cannot be read"),
]


@pytest.mark.parametrize(("text", "line", "said"), BROKEN)
@pytest.mark.parametrize("size", [1, 7, 1000], ids=lambda size: f"blocks-of-{size}")
def test_a_broken_array_stops_with_the_line(text: str, line: int, said: str, size: int) -> None:
    blocks = (text[at : at + size] for at in range(0, len(text), size))
    with pytest.raises(DataError) as caught:
        list(array_rows("a.json", blocks))
    assert str(caught.value).startswith(f"a.json:{line}: ")
    assert said in str(caught.value)


def test_a_broken_row_is_named_without_reading_the_rest_of_the_file() -> None:
    def blocks() -> Any:
        yield '[\n{"a": 1},\n{"b": nil, "c": 12345678901234567890},\n'
        raise AssertionError("read on")

    rows = array_rows("a.json", blocks())
    assert next(rows).value == {"a": 1}
    with pytest.raises(DataError, match=r"^a\.json:3: not valid JSON \(Expecting value, column 7"):
        next(rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(json_values, max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    size=st.integers(1, 30),
)
def test_an_array_in_blocks_of_any_size_gives_its_values_and_their_text(
    values: list[Any], indent: int | None, size: int
) -> None:
    text = json.dumps(values, indent=indent)
    blocks = (text[at : at + size] for at in range(0, len(text), size))
    rows = list(array_rows("a.json", blocks))
    assert [row.value for row in rows] == values
    assert [json.loads(row.raw) for row in rows] == values
    begin, lines = 0, [0]
    for row in rows:
        begin = text.index(row.raw, begin)
        assert row.line == 1 + text.count("\n", 0, begin)
        first = row.line > lines[-1]
        assert row.column == (0 if first else begin - text.rfind("\n", 0, begin))
        lines.append(row.line)
        begin += len(row.raw)


# --- .csv and .tsv -------------------------------------------------------------------------------


def test_csv_rows_know_their_line_behind_cells_of_several_lines(tmp_path: Path) -> None:
    text = 'q,a\r\n"1\n2","x, ""y"""\r\n\r\n3,\r\n'
    rows = read(write(tmp_path / "a.csv", text))
    assert rows == [
        RawRow(2, '"1\n2","x, ""y"""', {"q": "1\n2", "a": 'x, "y"'}),
        RawRow(5, "3,", {"q": "3", "a": None}),
    ]


def test_tsv_cells_are_between_tabs(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.tsv", "\ufeffq\ta\n1, 2\t3\n"))
    assert rows == [RawRow(2, "1, 2\t3", {"q": "1, 2", "a": "3"})]


def test_cells_longer_than_pythons_own_limit_are_read(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)
    long = "x" * 131_073
    (row,) = read(write(tmp_path / "a.csv", f"text\n{long}\n"))
    assert row.value == {"text": long}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("q,a\n1,2\n1,2,3\n4,5\n", 3, "has 3 cells, but the header names 2 columns"),
        ("q,a\n1,2\n1\n4,5\n", 3, "has 1 cells, but the header names 2 columns"),
        ('q,a\n1,2\n"1"x,2\n4,5\n', 3, "cannot be split into cells"),
        ("q,a,\n1,2,\n1,2,3\n4,5,\n", 3, "has a value in column 3, which has no name"),
    ],
)
def test_a_row_that_does_not_fit_the_header_is_one_broken_row(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    rows = read(write(tmp_path / "a.csv", text))
    assert [row.line for row in rows] == [2, 3, 4]
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert rows[1].line == line
    assert rows[1].raw == text.splitlines()[2]
    assert said in rows[1].error


def test_a_first_column_without_a_name_is_an_index_and_left_out(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.csv", ",q,a\n0,x,y\n"))
    assert [row.value for row in rows] == [{"q": "x", "a": "y"}]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('q,a\n1,2\n"3,4\n5,6\n', 3, "never closed"),
        ("q,a,q\n1,2,3\n", 1, "the columns 1 and 3 the same name, 'q'"),
        ('"q"x,a\n1,2\n', 1, "the header cannot be split"),
    ],
)
def test_a_table_that_cannot_be_read_past_a_line_names_it(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.csv", text))
    assert str(caught.value).startswith(f"a.csv:{line}: ")
    assert said in str(caught.value)


cells = st.text(alphabet='a ,"\r\n\t;é', max_size=8)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=2, max_size=2), max_size=5), tab=st.booleans())
def test_what_pythons_csv_writer_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], tab: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if tab else ",", quoting=csv.QUOTE_ALL)
    writer.writerows([["q", "a"], *rows])
    path = tmp_path_factory.mktemp("csv") / ("a.tsv" if tab else "a.csv")
    found = read(write(path, text.getvalue()))
    kept = [row for row in rows if any(cell.strip() for cell in row)]
    assert [row.value for row in found] == [{"q": q or None, "a": a or None} for q, a in kept]


# --- .parquet ------------------------------------------------------------------------------------


def test_parquet_records_keep_their_values_and_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records = [
        {"messages": [{"role": "user", "content": "ü"}], "day": datetime.date(2026, 1, 31)},
        {"messages": [], "day": None},
    ]
    pq.write_table(pa.Table.from_pylist(records), path)
    assert read(path) == [
        RawRow(
            1,
            '{"messages": [{"role": "user", "content": "ü"}], "day": "2026-01-31"}',
            records[0],
        ),
        RawRow(2, '{"messages": [], "day": null}', records[1]),
    ]


# --- .xlsx ---------------------------------------------------------------------------------------


def test_sheet_rows_are_strings_and_know_their_row_number(tmp_path: Path) -> None:
    path = write_sheets(
        tmp_path / "a.xlsx",
        Empty=[],
        Rows=[
            [],
            ["ID", "q", "a"],
            [7, "p", "1\n2"],
            [],
            [8.5, True, None],
            [decimal.Decimal(9), "", datetime.datetime(2026, 1, 31, 12)],
        ],
    )
    rows = read(path)
    assert [(row.line, row.value) for row in rows] == [
        (3, {"ID": "7", "q": "p", "a": "1\n2"}),
        (5, {"ID": "8.5", "q": "True", "a": None}),
        (6, {"ID": "9", "q": None, "a": "2026-01-31 12:00:00"}),
    ]
    assert rows[1].raw == '{"ID": "8.5", "q": "True", "a": null}'


def test_a_sheet_is_read_whole_and_as_it_was_last_calculated(tmp_path: Path) -> None:
    """Some writers say of every sheet that it is one cell large, and cells may be formulas."""
    whole = write_sheets(tmp_path / "whole.xlsx", Rows=[["q", "a"], ["1+1", "=1+1"]])
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name.endswith("sheet1.xml"):
                assert b'ref="A1:B2"' in text and b"<v" in text
                text = text.replace(b'ref="A1:B2"', b'ref="A1"').replace(b"<v />", b"<v>2</v>")
                text = text.replace(b"<v></v>", b"<v>2</v>")
            new.writestr(name, text)
    assert [row.value for row in read(path)] == [{"q": "1+1", "a": "2"}]


def test_a_cell_beyond_the_header_is_one_broken_row(tmp_path: Path) -> None:
    path = write_sheets(tmp_path / "a.xlsx", Rows=[["q"], ["1", "2"], ["3"]])
    rows = read(path)
    assert [(row.line, bool(row.error)) for row in rows] == [(2, True), (3, False)]
    assert rows[0].raw == '["1", "2"]'
    assert "has a value in column 2" in rows[0].error


def test_rows_on_two_sheets_are_refused_with_the_sheets_names(tmp_path: Path) -> None:
    path = write_sheets(tmp_path / "a.xlsx", One=[["q"], [1]], Two=[["q"], [1]])
    with pytest.raises(DataError, match=r"^a\.xlsx: has rows on 2 sheets \('One', 'Two'\)"):
        read(path)


# --- packed, damaged, encoded --------------------------------------------------------------------


def _example(folder: Path, container: str) -> Path:
    """A file with the one row {"q": "ä", "a": "b"}, as that container writes it."""
    path = folder / f"plain{container}"
    if container == ".parquet":
        pq.write_table(pa.Table.from_pylist([{"q": "ä", "a": "b"}]), path)
        return path
    if container == ".xlsx":
        return write_sheets(path, Rows=[["q", "a"], ["ä", "b"]])
    texts = {
        ".json": '[{"q": "ä", "a": "b"}]',
        ".jsonl": '{"q": "ä", "a": "b"}\n',
        ".csv": "q,a\nä,b\n",
        ".tsv": "q\ta\nä\tb\n",
    }
    return write(path, texts[container])


@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_every_container_gives_the_same_row_packed_or_not(
    tmp_path: Path, container: str, packing: str
) -> None:
    plain = _example(tmp_path, container)
    (row,) = read(write(tmp_path / f"a{container}{packing}", packed(plain.read_bytes(), packing)))
    value = json.loads(row.raw) if row.value is UNPARSED else row.value
    assert value == {"q": "ä", "a": "b"}


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_one_after_the_other_are_one_file(tmp_path: Path, packing: str) -> None:
    data = packed(b"eins\nzw", packing) + packed(b"ei\n", packing)
    rows = read(write(tmp_path / f"a.txt{packing}", data))
    assert [row.value for row in rows] == [{"text": "eins"}, {"text": "zwei"}]


@pytest.mark.parametrize("suffix", NOT_TEXT)
@pytest.mark.parametrize("damage", ["cut off", "other bytes"])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path, suffix: str, damage: str) -> None:
    container, packing = "." + suffix.split(".")[1], Path(f"a{suffix}").suffix
    whole = packed(_example(tmp_path, container).read_bytes(), packing)
    broken = whole[: len(whole) - 5] if damage == "cut off" else b"no such format" * 9
    path = write(tmp_path / f"a{suffix}", broken)
    with pytest.raises(DataError, match=r"^a\.\S+: is damaged, cut off, or no .* file \(.+\)\. "):
        read(path)


def test_a_zst_file_of_many_pieces_is_read_whole(tmp_path: Path) -> None:
    random = Random(0)
    lines = [random.randbytes(500).hex() for _ in range(1000)]
    data = packed("\n".join(lines).encode(), ".zst")
    assert len(data) > 1 << 18  # more than one read
    rows = read(write(tmp_path / "a.txt.zst", data))
    assert [row.value for row in rows] == [{"text": line} for line in lines]


@pytest.mark.parametrize("before", [0, 3, (1 << 20) - 2, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_wrong_byte_is_named_by_its_offset_in_the_file(
    tmp_path: Path, before: int, bom: bytes, packing: str
) -> None:
    data = bom + b"x" * before + "ä".encode("latin-1") + b"rger\n"
    path = write(tmp_path / f"a.txt{packing}", packed(data, packing))
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path.name}: byte {len(bom) + before} is not utf-8")
    assert "data.encoding" in str(caught.value)


def test_a_file_that_ends_within_a_character_is_named_by_that_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="byte 2 is not utf-8"):
        read(write(tmp_path / "a.txt", b"ab\xe4\xbd"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "cp936"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_named_encoding_reads_the_same_rows(tmp_path: Path, encoding: str, packing: str) -> None:
    text = f"q,a\n你好吗,{'很好' * 300_000}\n"
    path = write(tmp_path / f"a.csv{packing}", packed(text.encode(encoding), packing))
    (row,) = read(path, encoding)
    assert row.value == {"q": "你好吗", "a": "很好" * 300_000}


def test_an_unknown_encoding_is_a_data_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match=r"data\.encoding: no encoding is called 'utf-9'"):
        read(path, "utf-9")
