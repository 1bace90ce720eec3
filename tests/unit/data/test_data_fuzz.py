"""Whatever rows and files hold, every row is clean or quarantined, and no file ends in a traceback.

10,000 rows and 234 files, changed at random but the same in every run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ytrainer_core.config import DataConfig
from ytrainer_core.data import Corpus, prepare_corpus
from ytrainer_core.data.checks import RULES
from ytrainer_core.data.corpus import SPLITS, read_quarantine
from ytrainer_core.errors import DataError

Fields = dict[str, Any]


def prepare(folder: Path, path: Path, tokenizer: Any = None, **knobs: Any) -> Corpus:
    loose = {"validation_fraction": 0.0, "max_dropped": 1.0, "purpose": "auto"}
    config = DataConfig.model_validate({"train": str(path), **loose, **knobs})
    return prepare_corpus(config, folder / "corpus", tokenizer=tokenizer, seed=1)


def check(corpus: Corpus) -> tuple[set[str], set[str]]:
    """Every row is in one place, with a reason where it is out. Returns (clean, other) origins."""
    counts = corpus.manifest["counts"]
    quarantined = list(read_quarantine(corpus.folder))
    clean = [origin for split in SPLITS for origin in getattr(corpus, split)["origin"]]
    assert len(clean) == sum(counts[split] for split in SPLITS)
    assert len(quarantined) == counts["quarantined"]
    assert len(clean) + len(quarantined) == counts["read"]
    for row in quarantined:
        assert RULES[row.rule].name == row.rule
        assert row.reason.strip().endswith("."), row
    out = {row.origin for row in quarantined}
    assert len(out) == len(quarantined) and len(set(clean)) == len(clean)
    assert not out & set(clean)
    return set(clean), out


# --- rows ----------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[str], Fields]] = {
    "messages": lambda n: {
        "messages": [
            {"role": "system", "content": f"be short {n}"},
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": f"answer {n}", "weight": 1},
        ],
        "tools": [{"name": "f", "parameters": {}}],
    },
    "sharegpt": lambda n: {
        "conversations": [
            {"from": "human", "value": f"question {n}"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": f"answer {n}"},
        ],
        "system": "be short",
        "tools": "[]",
    },
    "alpaca": lambda n: {
        "instruction": f"question {n}",
        "input": "of something",
        "output": f"answer {n}",
        "system": "be short",
        "history": [["before", "it"]],
    },
    "prompt_completion": lambda n: {
        "prompt": f"question {n}",
        "completion": f"answer {n}",
        "label": True,
    },
    "question_answer": lambda n: {"question": f"question {n}", "answer": f"answer {n}"},
    "preference": lambda n: {
        "prompt": [{"role": "user", "content": f"question {n}"}],
        "chosen": {"role": "assistant", "content": f"answer {n}"},
        "rejected": "worse",
    },
    "prompt": lambda n: {"prompt": f"question {n}", "answer": "7", "level": 3},
    "y_agent": lambda n: {
        "ID": n,
        "输入": f"question {n}",
        "输出": f"answer {n}",
        "特征概要": "",
        "分类名称": "c",
        "分类ID": "1",
        "是否审核": "是",
        "是否更正": "否",
        "创建时间": "2025-01-01",
    },
    "text": lambda n: {"text": f"a document about {n}"},
}
"""A whole row of every shape, by the word that tells it from others."""

ODD: list[Any] = [
    None, True, False, 0, -1.5, 1e308, float("nan"), 10**30, "", " ", "\x00", "\ufffd", "\ud800",
    "\u2028", "x" * 300, "user", "assistant", [], {}, [[]], [{}], [None], {"": ""}, "[]",
    ["a", "b"], '{"a": 1}', {"role": "user"}, {"role": "assistant", "content": "a"},
    {"from": "gpt", "value": 1},
]  # fmt: skip

_edits = st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, len(ODD) - 1))


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a row, containers before what they hold."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, held in inside:
        found.append((*path, key))
        if isinstance(held, (dict, list)):
            found += paths(held, (*path, key))
    return found


def edited(row: Fields, edits: list[tuple[int, int, int]]) -> Fields:
    """The row with values replaced, taken out, wrapped, or put where nobody expects one."""
    for where, what, odd in edits:
        places = paths(row)
        if not places:
            return row
        *above, key = places[where % len(places)]
        holder: Any = row
        for step in above:
            holder = holder[step]
        value = json.loads(json.dumps(ODD[odd]))
        if what == 0:
            holder[key] = value
        elif what == 1:
            del holder[key]
        elif what == 2:
            holder[key] = [holder[key]]
        elif isinstance(holder, dict):
            holder[str(ODD[odd])[:20]] = holder[key]
        else:
            holder.insert(key, value)
    return row


_changes = st.lists(st.lists(_edits, min_size=1, max_size=3), min_size=50, max_size=50)
_profile = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def written(folder: Path, shape: str, changes: list[list[tuple[int, int, int]]]) -> Path:
    """Two whole rows, then one a change."""
    path = folder / "rows.jsonl"
    whole = [ROWS[shape](f"whole {n}") for n in range(2)]
    rows = whole + [edited(ROWS[shape](f"{n}"), one) for n, one in enumerate(changes)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("shape", ROWS)
def test_whole_rows_of_every_shape_are_clean(shape: str, tmp_path: Path) -> None:
    path = written(tmp_path, shape, [])
    corpus = prepare(tmp_path, path, format=shape)
    assert check(corpus) == ({f"{path}:1", f"{path}:2"}, set())


@settings(_profile, max_examples=100)
@given(shape=st.sampled_from(sorted(ROWS)), changes=_changes)
def test_of_5000_changed_rows_each_is_clean_or_quarantined(
    shape: str, changes: list[list[tuple[int, int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    path = written(folder, shape, changes)
    clean, out = check(prepare(folder, path, format=shape))
    assert {f"{path}:1", f"{path}:2"} <= clean
    assert clean | out == {f"{path}:{n}" for n in range(1, 53)}


SHORT: dict[str, Fields] = {
    "messages": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "q", "output": "a"},
    "text": {"text": "q"},
}
"""Rows that fit into any length."""


@settings(_profile, max_examples=60)
@given(
    shape=st.sampled_from(sorted(SHORT)),
    changes=_changes,
    knobs=st.fixed_dictionaries(
        {
            "train_on": st.sampled_from(["all_turns", "last_turn"]),
            "on_too_long": st.sampled_from(["drop", "truncate"]),
            "max_length": st.sampled_from([64, 1024]),
            "rules": st.sampled_from(
                ["", "near_duplicate=error,exact_duplicate=warning", "contradicting_answers=off"]
            ),
            "languages": st.sampled_from(["", "en,zh"]),
            "system_prompt": st.sampled_from(["", "be kind"]),
        }
    ),
    marked=st.booleans(),
)
def test_of_3000_changed_rows_that_are_tokenized_each_is_clean_or_quarantined(
    shape: str,
    changes: list[list[tuple[int, int, int]]],
    knobs: Fields,
    marked: bool,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    folder = tmp_path_factory.mktemp("tokenized")
    path = written(folder, shape, changes)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(SHORT[shape]) + "\n")
    tokenizer = request.getfixturevalue("marked" if marked else "unmarked")
    clean, out = check(prepare(folder, path, tokenizer, format=shape, **knobs))
    assert f"{path}:53" in clean
    assert clean | out == {f"{path}:{n}" for n in range(1, 54)}


_damage = st.tuples(st.integers(0, 4), st.integers(0, 400), st.integers(0, 10))
_SCRAPS = ['"', "{", "}", "[", "]", ",", "\\", "\\u12", "\t", "\x00", "é"]


def damaged(line: str, how: int, where: int, scrap: int) -> str:
    at = where % len(line)
    return (
        line[:at],
        line[:at] + _SCRAPS[scrap] + line[at:],
        line[:at] + line[at + 1 :],
        line[:at] + "[" * 3000 + line[at:],
        line[at:] + line[:at],
    )[how]


@settings(_profile, max_examples=40)
@given(shape=st.sampled_from(sorted(ROWS)), damages=st.lists(_damage, min_size=50, max_size=50))
def test_of_2000_damaged_lines_each_is_clean_or_quarantined(
    shape: str, damages: list[tuple[int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "rows.jsonl"
    lines = [json.dumps(ROWS[shape](f"whole {n}"), ensure_ascii=False) for n in range(2)]
    lines += [
        damaged(json.dumps(ROWS[shape](f"{n}"), ensure_ascii=False), *damage)
        for n, damage in enumerate(damages)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    clean, out = check(prepare(folder, path, format=shape))
    assert {f"{path}:1", f"{path}:2"} <= clean
    written_lines = {f"{path}:{n}" for n, line in enumerate(lines, 1) if line.strip()}
    assert clean | out == written_lines


# --- files ---------------------------------------------------------------------------------------

TABLE = [
    {"question": f"question {n}, with 'quotes' and é", "answer": f"answer {n}\nin two lines"}
    for n in range(12)
]
HEADER = ["question", "answer"]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TABLE).encode()


def as_json() -> bytes:
    return json.dumps(TABLE, indent=1).encode()


def as_txt() -> bytes:
    return "".join(f"{row['question']}\n" for row in TABLE).encode()


def separated(separator: str) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, HEADER, delimiter=separator, lineterminator="\n")
    table.writeheader()
    table.writerows(TABLE)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(TABLE), file)
    return file.getvalue()


_SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def as_xlsx() -> bytes:
    """The least that a spreadsheet is; written here so that its bytes are always the same."""
    lines = []
    for number, cells in enumerate([HEADER, *(list(row.values()) for row in TABLE)], 1):
        written = "".join(
            f'<c r="{"AB"[i]}{number}" t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
            for i, cell in enumerate(cells)
        )
        lines.append(f'<row r="{number}">{written}</row>')
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{_SHEETS}" xmlns:r="{_OFFICE}">'
        '<sheets><sheet name="rows" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_SHEETS}"><sheetData>'
        f"{''.join(lines)}</sheetData></worksheet>",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            part = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(part, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}')
    return file.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": as_jsonl,
    "rows.json": as_json,
    "rows.csv": lambda: separated(","),
    "rows.tsv": lambda: separated("\t"),
    "rows.txt": as_txt,
    "rows.parquet": as_parquet,
    "rows.xlsx": as_xlsx,
    "rows.jsonl.gz": lambda: gzip.compress(as_jsonl(), mtime=0),
    "rows.csv.gz": lambda: gzip.compress(separated(","), mtime=0),
    "rows.parquet.gz": lambda: gzip.compress(as_parquet(), mtime=0),
    "rows.jsonl.zst": lambda: zstandard.compress(as_jsonl()),
    "rows.json.zst": lambda: zstandard.compress(as_json()),
    "rows.txt.zst": lambda: zstandard.compress(as_txt()),
}


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    bits = rng.choice((7, 8))  # seven leave text that can be decoded
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(bits)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def stuffed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    scraps = rng.randbytes(rng.randint(1, 40))
    if rng.random() < 0.5:
        scraps = bytes(rng.choice(b'"{}[],:;\t\r\n\\ \0a1') for _ in scraps)
    return data[:at] + scraps + data[at:]


def line_ends_mixed(data: bytes, rng: random.Random) -> bytes:
    ends = (b"\n", b"\r\n", b"\r", b"\n\n")
    first, *lines = data.split(b"\n")
    return first + b"".join(rng.choice(ends) + line for line in lines)


def blanked(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.randint(1, 200))
    return data[:begin] + bytes(end - begin) + data[end:]


def of_another_kind(data: bytes, rng: random.Random) -> bytes:
    """Right inside, but for another suffix."""
    return rng.choice([make() for make in FILES.values() if make() != data])


DAMAGES = (flipped, cut, stuffed, line_ends_mixed, blanked, of_another_kind)


@pytest.mark.parametrize("name", FILES)
def test_whole_files_of_every_kind_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    clean, out = check(prepare(tmp_path, path))
    assert (len(clean), len(out)) == (12, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_of_a_damaged_file_each_row_is_clean_or_quarantined_or_the_file_is_named(
    name: str, damage: Callable[[bytes, random.Random], bytes], seed: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    rng = random.Random(f"{name} {damage.__name__} {seed}")
    path.write_bytes(damage(FILES[name](), rng))
    try:
        corpus = prepare(tmp_path, path)
    except DataError as error:
        assert name in str(error)
        assert str(error).strip().endswith((".", "quarantine"))
        return
    clean, out = check(corpus)
    assert clean
    assert all(origin.startswith(str(path)) for origin in clean | out)
