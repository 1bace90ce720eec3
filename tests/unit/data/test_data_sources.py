"""Files, globs, folders, object storage and hub data sets become files with a name and a rate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_storage import s3_bucket

from ytrainer_core.config import DataConfig
from ytrainer_core.data.formats import Row
from ytrainer_core.data.reader import read_rows
from ytrainer_core.data.sources import Source, find_sources
from ytrainer_core.errors import DataError

ROW = '{"question": "q", "answer": "a"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with readable files, hidden ones, and others."""
    names = ("b.jsonl", "a.csv.gz", "in/c.txt", "in/deep/d.json", "in/e.jsonl@2")
    hidden = (".f.jsonl", ".git/g.jsonl", "in/.cache/h.txt")
    for name in (*names, *hidden, "README.md", "in/picture.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str) -> list[str]:
    return [source.name for source in find_sources(paths)]


# --- files, folders, globs -----------------------------------------------------------------------


def test_a_file_keeps_the_name_that_it_was_given(folder: Path) -> None:
    assert find_sources(["./data/b.jsonl"]) == [Source("./data/b.jsonl", Path("data/b.jsonl"), 1.0)]


def test_a_folder_is_all_readable_files_in_it_sorted(folder: Path) -> None:
    assert found("data") == [
        "data/a.csv.gz",
        "data/b.jsonl",
        "data/in/c.txt",
        "data/in/deep/d.json",
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("data/*", ["data/a.csv.gz", "data/b.jsonl"]),
        ("data/*/*.txt", ["data/in/c.txt"]),
        ("data/**/*.j*", ["data/b.jsonl", "data/in/deep/d.json"]),
        ("data/[ab].*", ["data/a.csv.gz", "data/b.jsonl"]),
        ("data/.git/*.jsonl", ["data/.git/g.jsonl"]),
        ("data/in/../?.jsonl", ["data/in/../b.jsonl"]),
    ],
)
def test_a_glob_is_the_readable_files_that_match_it_sorted(
    folder: Path, pattern: str, names: list[str]
) -> None:
    assert found(pattern) == names
    assert found(str(folder / pattern)) == [str(folder / name) for name in names]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    (folder / "[ab].jsonl").write_text(ROW)
    (folder / "a.jsonl").write_text(ROW)
    assert found("[ab].jsonl") == ["[ab].jsonl"]


def test_all_faults_of_all_sources_come_together(folder: Path) -> None:
    (folder / "empty").mkdir()
    names = ["gone.jsonl", "data/README.md", "empty", "data/*.pdf", "data@11"]
    with pytest.raises(DataError) as caught:
        find_sources(["data", *names])
    assert [fault.split(": ")[0] for fault in caught.value.faults] == names
    said = (
        f"no such file (looked in {folder})",
        "'.md' files cannot be read. Convert it to one of .json, .jsonl, .csv, .tsv, .parquet, "
        ".txt, .xlsx (each also as .gz or .zst)",
        "the folder holds no file that can be read",
        "the pattern matches no file that can be read",
        "the sampling rate 11 is not between 0.01 and 10",
    )
    for fault, words in zip(caught.value.faults, said, strict=True):
        assert words in fault


def test_a_pattern_that_pathlib_refuses_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^data/\*\*\.x: (is no pattern|the pattern matches no)"):
        find_sources(["data/**.x"])  # from Python 3.13 on it is a pattern


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name", "rate"),
    [
        ("data/b.jsonl", "data/b.jsonl", 1.0),
        ("data/b.jsonl@0.01", "data/b.jsonl", 0.01),
        ("data/b.jsonl@10", "data/b.jsonl", 10.0),
        ("data/*.jsonl@2", "data/b.jsonl", 2.0),
        ("data/in/deep@.5", "data/in/deep/d.json", 0.5),
    ],
)
def test_what_follows_the_last_at_sign_is_the_rate_of_all_its_files(
    folder: Path, given: str, name: str, rate: float
) -> None:
    assert find_sources([given]) == [Source(name, Path(name), rate)]


def test_a_path_that_exists_with_an_at_sign_is_that_path(folder: Path) -> None:
    (folder / "data@2").mkdir()
    (folder / "data@2" / "x@0.5.jsonl").write_text(ROW)
    name = "data@2/x@0.5.jsonl"
    assert find_sources(["data@2"]) == [Source(name, Path(name), 1.0)]
    assert find_sources([name]) == [Source(name, Path(name), 1.0)]
    assert find_sources(["data@2@3"]) == [Source(name, Path(name), 3.0)]


@pytest.mark.parametrize("rate", ["0", "0.009", "10.1", "-1", "nan", "inf"])
def test_a_rate_out_of_bounds_is_refused(folder: Path, rate: str) -> None:
    with pytest.raises(DataError, match=rf"rate {rate} is not between 0\.01 and 10"):
        find_sources([f"data/b.jsonl@{rate}"])


# --- object storage ------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Iterator[Any]:
    own = ("own/b.jsonl", "own/in/a.jsonl", "own/.tmp/c.jsonl", "own/README.md")
    with s3_bucket("corpora") as made:
        for key in (*own, "own2/d.txt", "out.json/part-0.jsonl"):
            made.put_object(Key=key, Body=ROW.encode())
        yield made


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("s3://corpora/own/b.jsonl", ["s3://corpora/own/b.jsonl"]),
        ("s3://corpora/own/", ["s3://corpora/own/b.jsonl", "s3://corpora/own/in/a.jsonl"]),
        ("s3://corpora/own", ["s3://corpora/own/b.jsonl", "s3://corpora/own/in/a.jsonl"]),
        ("s3://corpora/own2@0.5", ["s3://corpora/own2/d.txt"]),
        ("s3://corpora/out.json/", ["s3://corpora/out.json/part-0.jsonl"]),
    ],
)
def test_objects_are_fetched_below_home_and_keep_their_address_as_name(
    bucket: Any, given: str, names: list[str]
) -> None:
    sources = find_sources([given])
    assert [source.name for source in sources] == names
    assert {source.rate for source in sources} == {0.5 if given.endswith("@0.5") else 1.0}
    for source in sources:
        assert source.path.read_text() == ROW
        assert source.path.name == source.name.rpartition("/")[2]
        assert source.path.is_relative_to(Path(os.environ["YTRAINER_HOME"]) / "cache" / "s3")


@pytest.mark.parametrize("given", ["s3://corpora/none/", "s3://corpora/own/README.md"])
def test_a_prefix_without_a_readable_object_is_named(bucket: Any, given: str) -> None:
    with pytest.raises(DataError, match=rf"^{given}: no object there can be read"):
        find_sources([given])


# --- hub -----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of two splits, as the hub has them."""
    folder = tmp_path / "set"
    folder.mkdir()
    for split, answer in (("train", "a"), ("test", "b")):
        row = {"question": "q", "answer": answer}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ("", "a"),
        (":train", "a"),
        (":test", "b"),
        (":default", "a"),
        (":default:test", "b"),
        ("::test", "b"),
        (":test[:1]", "b"),
    ],
)
def test_a_hub_data_set_is_its_train_split_unless_another_is_named(
    dataset: Path, parts: str, answer: str
) -> None:
    name = f"hub:{dataset}{parts}"
    (row,) = read_rows([f"{name}@2"], DataConfig())
    assert isinstance(row, Row)
    assert row.origin == f"{name}:1"
    assert [turn.content for turn in row.turns] == ["q", answer]


def test_a_hub_data_set_is_written_once_until_its_files_change(dataset: Path) -> None:
    (first,) = find_sources([f"hub:{dataset}@0.5"])
    cache = Path(os.environ["YTRAINER_HOME"]) / "cache" / "hub"
    assert first.rate == 0.5
    assert [path for path in cache.rglob("*") if path.is_file()] == [first.path]
    written = first.path.stat()
    (again,) = find_sources([f"hub:{dataset}"])
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written.st_mtime_ns)
    (dataset / "train.jsonl").write_text(ROW * 2)
    (changed,) = find_sources([f"hub:{dataset}"])
    assert changed.path != first.path
    assert len(list(read_rows([f"hub:{dataset}"], DataConfig()))) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hub:", "names no data set"),
        ("hub:a:b:c:d", "names no data set"),
        ("hub:{dataset}:default:valid", "cannot be loaded"),
        ("hub:{dataset}/none", "cannot be loaded"),
    ],
)
def test_a_hub_data_set_that_cannot_be_loaded_is_named_with_a_remedy(
    dataset: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    name = name.format(dataset=dataset)
    with pytest.raises(DataError) as caught:
        find_sources([name])
    assert str(caught.value).startswith(f"{name}: ")
    assert said in str(caught.value)
    assert "hub:DATASET[:CONFIG][:SPLIT]" in str(caught.value)
