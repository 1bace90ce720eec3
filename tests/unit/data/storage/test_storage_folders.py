"""A listing knows where a name ends, and a folder moves only what differs."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moto.s3.models
import pytest
from faulty_proxy import Fault, FaultyProxy, first
from storage_examples import PART, files_below, noise

from ytrainer_core import storage
from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_folder
from ytrainer_core.storage import patience


@pytest.mark.parametrize(
    ("uri", "keys"),
    [
        ("s3://corpora", ["data", "data/a b.txt", "data/sub/ü.txt", "data2/a", "z"]),
        ("s3://corpora/", ["data", "data/a b.txt", "data/sub/ü.txt", "data2/a", "z"]),
        ("s3://corpora/data/", ["data/a b.txt", "data/sub/ü.txt"]),
        ("s3://corpora/data", ["data", "data/a b.txt", "data/sub/ü.txt"]),
        ("s3://corpora/z", ["z"]),
        ("s3://corpora/nothing/", []),
    ],
)
def test_a_listing_holds_what_lies_below_a_prefix_and_ends_where_a_name_ends(
    bucket: Any, uri: str, keys: list[str]
) -> None:
    for key in ("z", "data2/a", "data/sub/ü.txt", "data/a b.txt", "data", "data/sub/"):
        bucket.put_object(Key=key, Body=b"" if key.endswith("/") else b"12345")
    found = storage.list_objects(uri)
    assert [stored.uri for stored in found] == [f"s3://corpora/{key}" for key in keys]
    assert {(stored.size, stored.etag) for stored in found} <= {
        (5, hashlib.md5(b"12345").hexdigest())
    }


def test_a_listing_goes_on_beyond_a_thousand_objects(bucket: Any) -> None:
    backend = moto.s3.models.s3_backends["123456789012"]["aws"]
    for number in range(1003):
        backend.put_object("corpora", f"{number:04d}", b"x")
    found = storage.list_objects("s3://corpora")
    assert [stored.uri[-4:] for stored in found] == [f"{number:04d}" for number in range(1003)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, size in (("a.txt", 10), ("sub/b.txt", PART + 1), ("sub/deep/c d.txt", 0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(noise(size, seed=size))
    return folder


def test_a_folder_comes_back_as_it_was_stored(
    bucket: Any, tmp_path: Path, tree: Path, small_parts: None
) -> None:
    digests = storage.upload_folder(tree, "s3://corpora/tree/")
    assert digests == sha256_folder(tree)
    assert [stored.uri for stored in storage.list_objects("s3://corpora")] == [
        f"s3://corpora/tree/{name}" for name in digests
    ]
    paths = storage.download_folder("s3://corpora/tree", tmp_path / "back")
    assert paths == [tmp_path / "back" / name for name in digests]
    assert sha256_folder(tmp_path / "back") == digests


def test_a_folder_is_stored_and_fetched_again_only_where_bytes_differ(
    through: Callable[..., FaultyProxy], tmp_path: Path, tree: Path
) -> None:
    proxy = through()
    storage.upload_folder(tree, "s3://corpora")
    storage.download_folder("s3://corpora", tmp_path / "back")
    assert (proxy.count("PUT"), proxy.sent) == (3, 10 + PART + 1)
    (tree / "a.txt").write_bytes(b"0123456789")  # as long as it was
    digests = storage.upload_folder(tree, "s3://corpora")
    assert [request.target for request in proxy.requests if request.method == "PUT"][3:] == [
        "/corpora/a.txt"
    ]
    (tmp_path / "back" / "sub" / "b.txt").write_bytes(noise(PART + 1, seed=5))
    before = len(proxy.requests)
    storage.download_folder("s3://corpora", tmp_path / "back")
    again = [r.target for r in proxy.requests[before:] if r.method == "GET"]
    fetched = [target for target in again if "?" not in target]  # not the listing
    assert sorted(fetched) == ["/corpora/a.txt", "/corpora/sub/b.txt"]
    assert sha256_folder(tmp_path / "back") == digests


def test_an_object_that_others_stored_is_known_again_by_its_md5(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=b"one")
    proxy = through()
    storage.download_folder("s3://corpora", tmp_path)
    storage.download_folder("s3://corpora", tmp_path)
    assert proxy.count("GET", "/corpora/a") == 1
    (tmp_path / "a").write_bytes(b"own")  # as long as it was
    storage.download_folder("s3://corpora", tmp_path)
    assert proxy.count("GET", "/corpora/a") == 2
    assert (tmp_path / "a").read_bytes() == b"one"


def test_leftovers_of_a_download_are_not_stored_and_go_with_the_next_one(
    bucket: Any, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    leftover = tmp_path / ".s3-0123.part"
    leftover.write_bytes(b"half")
    assert list(storage.upload_folder(tmp_path, "s3://corpora")) == ["a"]
    storage.download_folder("s3://corpora", tmp_path)
    assert not leftover.exists()


def test_keys_that_cannot_be_files_below_the_folder_are_all_named_and_nothing_is_written(
    bucket: Any, tmp_path: Path
) -> None:
    for key in ("p/../out", "p//abs", "p/a/./b", "p/file", "p/file/below", "p/fine"):
        bucket.put_object(Key=key, Body=b"x")
    with pytest.raises(DataError) as caught:
        storage.download_folder("s3://corpora/p/", tmp_path / "in" / "here")
    named = [fault.split("'")[1] for fault in caught.value.faults]
    assert sorted(named) == ["../out", "/abs", "a/./b", "file/below"]
    assert files_below(tmp_path) == []


def test_a_folder_without_files_and_a_prefix_without_objects_are_errors(
    bucket: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^s3://corpora/typo/: no object lies below it"):
        storage.download_folder("s3://corpora/typo/", tmp_path)
    with pytest.raises(DataError, match="no file in it"):
        storage.upload_folder(tmp_path / "typo", "s3://corpora")


def test_the_first_fault_ends_a_folders_transfers(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    for number in range(40):
        bucket.put_object(Key=f"{number:02d}", Body=noise(100))
    proxy = through(lambda request: Fault("denied") if request.method == "HEAD" else None)
    with pytest.raises(DataError) as caught:
        storage.download_folder("s3://corpora", tmp_path)
    assert all("access is denied" in fault for fault in caught.value.faults)
    assert proxy.count("HEAD") < 40
    assert files_below(tmp_path) == []


def test_a_transfer_that_waits_ends_with_the_one_that_failed(
    bucket: Any,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pauses: None,
) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 60)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 60)
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    for key in ("refused", "waits"):
        bucket.put_object(Key=key, Body=b"x")
    kinds = {"/corpora/refused": "denied", "/corpora/waits": "slow_down"}
    through(lambda request: Fault(kinds[request.target]) if request.method == "HEAD" else None)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        storage.download_folder("s3://corpora", tmp_path)
    assert time.monotonic() - started < 30
    assert [fault.split(":")[1] for fault in caught.value.faults] == ["//corpora/refused"]


def test_a_file_in_parts_goes_no_further_once_another_file_failed(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, small_parts: None
) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "refused").write_bytes(b"x")
    (folder / "large").write_bytes(noise(40 * PART))
    proxy = through(first("PUT", Fault("denied"), part_of_target="/refused"))
    with pytest.raises(DataError, match=r"^s3://corpora/refused: "):
        storage.upload_folder(folder, "s3://corpora")
    assert proxy.count("PUT", "/large") < 40
    assert list(bucket.objects.all()) == []
