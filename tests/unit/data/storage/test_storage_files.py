"""One file goes to an object and comes back the same, also where others are at work on it."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import Fault, FaultyProxy, Request
from storage_examples import PART, files_below, noise, uploads_begun

from ytrainer_core import storage
from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.files import home, sha256_file
from ytrainer_core.storage import unfinished, upload


def test_only_addresses_of_object_storage_are_remote() -> None:
    assert storage.is_remote("s3://corpora/rows.jsonl")
    assert not any(map(storage.is_remote, ["rows.jsonl", "/s3://rows.jsonl", "hub:rows", "s3"]))


def test_a_file_comes_back_as_it_was_put(bucket: Any, tmp_path: Path) -> None:
    here = tmp_path / "rows.jsonl"
    here.write_bytes(bytes(range(256)) * 100)
    digest = storage.put(here, "s3://corpora/a/rows.jsonl")
    there = storage.fetch("s3://corpora/a/rows.jsonl", tmp_path / "cache")
    assert there.name == "rows.jsonl"
    assert digest == sha256_file(there) == sha256_file(here)
    assert files_below(tmp_path / "cache") == [there]
    assert there.stat().st_mode & 0o777 == 0o644


def test_an_empty_file_comes_back_empty(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert storage.put(tmp_path / "empty", "s3://corpora/e") == hashlib.sha256(b"").hexdigest()
    assert storage.fetch("s3://corpora/e", tmp_path / "cache").read_bytes() == b""


def test_the_sha256_is_kept_in_the_objects_metadata(
    bucket: Any, tmp_path: Path, small_parts: None
) -> None:
    for name, size in (("small", PART), ("large", PART + 1)):
        (tmp_path / name).write_bytes(noise(size))
        digest = storage.put(tmp_path / name, f"s3://corpora/{name}")
        assert bucket.Object(name).metadata == {"sha256": digest}
        assert digest == hashlib.sha256(noise(size)).hexdigest()


@pytest.mark.parametrize(
    ("size", "most_parts", "parts"),
    [
        (PART, 10_000, ""),  # not more than a part: no parts at all
        (PART + 1, 10_000, "-2"),
        (4 * PART, 10_000, "-4"),
        (4 * PART, 3, "-3"),  # the parts grow where S3 takes no more of them
    ],
)
def test_a_large_file_is_stored_in_parts(
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_parts: None,
    size: int,
    most_parts: int,
    parts: str,
) -> None:
    monkeypatch.setattr(upload, "_MOST_PARTS", most_parts)
    (tmp_path / "a").write_bytes(noise(size))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(size)
    assert bucket.Object("a").e_tag.strip('"')[32:] == parts
    assert uploads_begun(bucket) == 0
    assert files_below(home()) == []


def test_an_unchanged_object_is_not_fetched_twice_and_a_changed_one_is(
    bucket: Any, tmp_path: Path
) -> None:
    bucket.put_object(Key="a.txt", Body=b"one\n")
    first = storage.fetch("s3://corpora/a.txt", tmp_path)
    first.write_bytes(b"own\n")  # the mark of the copy that is here
    assert storage.fetch("s3://corpora/a.txt", tmp_path).read_bytes() == b"own\n"
    bucket.put_object(Key="a.txt", Body=b"two\n")
    assert storage.fetch("s3://corpora/a.txt", tmp_path).read_bytes() == b"two\n"


def test_objects_of_the_same_name_do_not_take_each_others_place(
    bucket: Any, tmp_path: Path
) -> None:
    bucket.put_object(Key="a/rows.txt", Body=b"a")
    bucket.put_object(Key="b/rows.txt", Body=b"b")
    paths = [storage.fetch(f"s3://corpora/{key}/rows.txt", tmp_path) for key in "ab"]
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]


def test_every_body_carries_its_md5_for_the_store_to_check(
    through: Callable[..., FaultyProxy], tmp_path: Path, small_parts: None
) -> None:
    proxy = through()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(bytes(PART) + b"a")
    for name in "ab":
        storage.put(tmp_path / name, f"s3://corpora/{name}")
    sent = {request.headers["content-md5"] for request in proxy.requests if request.method == "PUT"}
    bodies = (b"a", bytes(PART))
    assert sent == {base64.b64encode(hashlib.md5(body).digest()).decode() for body in bodies}


def test_an_object_that_another_one_replaced_meanwhile_is_not_said_to_be_stored(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    def plan(request: Request) -> Fault | None:
        if request.method == "HEAD":
            bucket.put_object(Key="a", Body=b"their")
        return None

    through(plan)
    (tmp_path / "a").write_bytes(b"mine!")
    with pytest.raises(DataError, match=r"^s3://corpora/a: what can be seen there is not .*/a"):
        storage.put(tmp_path / "a", "s3://corpora/a")


def test_a_file_that_changes_while_it_is_stored_is_refused_and_leaves_nothing(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, small_parts: None
) -> None:
    path = tmp_path / "a"
    path.write_bytes(noise(3 * PART, seed=1))

    def plan(request: Request) -> Fault | None:
        if "partNumber" in request.target:
            path.write_bytes(noise(3 * PART, seed=2))
            os.utime(path, ns=(0, 0))
        return None

    through(plan)
    with pytest.raises(DataError, match="changed while it was stored"):
        storage.put(path, "s3://corpora/a")
    assert list(bucket.objects.all()) == []
    assert uploads_begun(bucket) == 0
    assert files_below(home()) == []


def test_a_download_that_another_process_is_at_is_made_beside_it(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=noise(1000))
    etag = bucket.Object("a").e_tag
    with unfinished.part_of(tmp_path / "a", etag) as others:
        others.write(b"half")
        others.flush()
        storage.download_folder("s3://corpora", tmp_path)
        assert (tmp_path / "a").read_bytes() == noise(1000)
        assert Path(others.name).read_bytes() == b"half"


def test_a_part_that_becomes_the_file_before_it_is_locked_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / ".s3-1.part", fcntl.flock

    def slowly(file: io.IOBase, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        path.rename(tmp_path / "finished")  # by the process that has just let go of it
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slowly)
    claimed = unfinished.claim(path)
    assert claimed is not None
    claimed.write(b"new")
    claimed.close()
    assert path.read_bytes() == b"new"
    assert (tmp_path / "finished").read_bytes() == b""


def test_a_corpus_is_read_from_a_bucket_and_its_rows_say_so(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="rows.txt", Body=b"one\ntwo\n")
    config = DataConfig(train="s3://corpora/rows.txt", validation_fraction=0)  # type: ignore[arg-type]
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=0)
    assert list(corpus.train["origin"]) == ["s3://corpora/rows.txt:1", "s3://corpora/rows.txt:2"]
    assert corpus.manifest["sources"][0]["path"] == "s3://corpora/rows.txt"
