"""Objects come and go whole over a network that breaks, against a real server that speaks S3."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import moto.s3.models
import pytest
from faulty_proxy import KINDS, Fault, FaultyProxy, Plan, Request, first, no_faults, seeded

from benchmarks import storage_faults
from ytrainer_core import storage
from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.files import home, sha256_file, sha256_folder

MIB = 1 << 20
PART = 256 << 10
"""Part of an upload in these tests; S3 itself wants 5 MiB."""

SECRET = "wJalrXUtnFEMI-this-is-the-secret"


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    made = boto3.resource("s3").create_bucket(Bucket="corpora")
    yield made
    for upload in made.multipart_uploads.all():
        upload.abort()
    made.objects.all().delete()
    made.delete()


@pytest.fixture
def through(
    bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FaultyProxy]]:
    """through(plan) -> a proxy that storage now talks to; a second without a byte is a stall."""
    with ExitStack() as stack:

        def start(plan: Plan = no_faults) -> FaultyProxy:
            proxy = stack.enter_context(FaultyProxy(endpoint, plan))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            monkeypatch.setenv(storage.SECONDS_VARIABLE, "1")
            return proxy

        yield start


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", PART)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", PART)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of botocore's, and no waiting between those of storage."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage, "_FIRST_PAUSE", 0.0)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def unfinished(bucket: Any) -> int:
    return len(list(bucket.multipart_uploads.all()))


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
    monkeypatch.setattr(storage, "_MOST_PARTS", most_parts)
    (tmp_path / "a").write_bytes(noise(size))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(size)
    assert bucket.Object("a").e_tag.strip('"')[32:] == parts
    assert unfinished(bucket) == 0
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


# Listing and folders


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
    monkeypatch.setattr(storage, "_FIRST_PAUSE", 60)
    monkeypatch.setattr(storage, "_LONGEST_PAUSE", 60)
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


# A network that breaks


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_survives_a_fault_of_every_request(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, kind: str
) -> None:
    bucket.put_object(Key="a", Body=noise(MIB))
    failed = set[str]()

    def plan(request: Request) -> Fault | None:
        new = request.method not in failed
        failed.add(request.method)
        return Fault(kind) if new else None

    proxy = through(plan)
    assert storage.fetch("s3://corpora/a", tmp_path).read_bytes() == noise(MIB)
    assert proxy.faults == {kind: 2}  # of the HEAD and of the GET


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_in_parts_survives_a_fault_of_every_request(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, small_parts: None, kind: str
) -> None:
    seen = set[str]()

    def plan(request: Request) -> Fault | None:
        what = re.sub(r"uploadId=[^&]*", "", f"{request.method} {request.target}")
        new = what not in seen
        seen.add(what)
        return Fault(kind) if new else None

    proxy = through(plan)
    (tmp_path / "a").write_bytes(noise(2 * PART))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(2 * PART)
    # Begun, two parts, completed (after a lost answer: found to be done), looked at.
    assert proxy.faults == {kind: 5}
    assert files_below(home()) == []


def test_an_upload_whose_completion_was_not_confirmed_is_found_to_be_complete(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, small_parts: None
) -> None:
    proxy = through(first("POST", Fault("forgotten"), part_of_target="uploadId"))
    (tmp_path / "a").write_bytes(noise(2 * PART))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(2 * PART)
    assert proxy.faults == {"forgotten": 1}


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_a_listing_that_ends_early_is_asked_for_again(
    bucket: Any, through: Callable[..., FaultyProxy], at: float
) -> None:
    bucket.put_object(Key="a", Body=b"a")
    proxy = through(first("GET", Fault("truncated", at)))
    assert [stored.uri for stored in storage.list_objects("s3://corpora")] == ["s3://corpora/a"]
    assert proxy.faults == {"truncated": 1}


def test_a_body_that_ends_early_goes_on_at_the_byte_where_it_ended(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=noise(MIB))
    proxy = through(first("GET", Fault("truncated", 0.5), Fault("truncated", 0.25)))
    assert storage.fetch("s3://corpora/a", tmp_path).read_bytes() == noise(MIB)
    ranges = [r.headers.get("range") for r in proxy.requests if r.method == "GET"]
    assert ranges == [None, "bytes=524288-", "bytes=655360-"]
    assert proxy.sent == MIB


def test_a_download_that_gets_on_is_not_given_up_however_often_it_is_cut_off(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, no_pauses: None
) -> None:
    bucket.put_object(Key="a", Body=noise(MIB))
    cuts = storage._TRIES + 2
    proxy = through(first("GET", *[Fault("truncated", 0.1)] * cuts))
    assert storage.fetch("s3://corpora/a", tmp_path).read_bytes() == noise(MIB)
    assert proxy.faults == {"truncated": cuts}


def test_an_object_that_changes_while_it_is_read_is_read_anew(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=noise(MIB, seed=1))

    def plan(request: Request) -> Fault | None:
        if "range" not in request.headers:
            return Fault("truncated") if request.method == "GET" and proxy.sent == 0 else None
        bucket.put_object(Key="a", Body=noise(MIB, seed=2))
        return None

    proxy = through(plan)
    assert storage.fetch("s3://corpora/a", tmp_path).read_bytes() == noise(MIB, seed=2)
    assert [path.name for path in files_below(tmp_path) if path.name != "a"] == []


def test_a_store_that_knows_no_ranges_is_read_from_the_beginning(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=noise(MIB))
    proxy = through(first("GET", Fault("truncated"), Fault("no_ranges")))
    assert storage.fetch("s3://corpora/a", tmp_path).read_bytes() == noise(MIB)
    assert proxy.sent == MIB // 2 + MIB


def test_bytes_that_are_damaged_on_the_way_are_read_anew(
    through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    proxy = through(first("GET", Fault("flipped_bit")))
    (tmp_path / "a").write_bytes(noise(1000))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert storage.fetch("s3://corpora/a", tmp_path / "cache").read_bytes() == noise(1000)
    assert (proxy.faults, proxy.sent) == ({"flipped_bit": 1}, 2000)


def test_pauses_double_and_then_the_transfer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(threading.Event):
        pauses: list[float] = []  # noqa: RUF012

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses.append(timeout or 0)
            return False

    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    patience = storage._Patience("s3://b/k", Clock())
    for _ in range(5):
        patience.bear(ConnectionResetError("gone"))
    assert Clock.pauses == [0.5, 1, 2, 4, 8]
    with pytest.raises(DataError, match=r"^s3://b/k: gone\. Check the address"):
        patience.bear(ConnectionResetError("gone"))


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (503, "SlowDown", True),
        (500, "InternalError", True),
        (429, "TooManyRequests", True),
        (400, "RequestTimeout", True),
        (400, "BadDigest", True),
        (400, "InvalidArgument", False),
        (403, "AccessDenied", False),
        (404, "NoSuchKey", False),
    ],
)
def test_a_refusal_that_passes_is_told_from_one_that_stays(
    status: int, code: str, passes: bool
) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert storage._passes(ClientError(answer, "PutObject")) is passes


@pytest.mark.parametrize("kind", ["slow_down", "reset_before", "truncated"])
def test_a_store_that_never_answers_well_ends_with_an_error(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, no_pauses: None, kind: str
) -> None:
    bucket.put_object(Key="a", Body=b"a")
    proxy = through(lambda request: Fault(kind, at=0.0) if request.method == "GET" else None)
    with pytest.raises(DataError, match=r"^s3://corpora/a: "):
        storage.fetch("s3://corpora/a", tmp_path)
    assert proxy.faults == {kind: storage._TRIES}
    assert files_below(tmp_path) == []


def test_an_endpoint_out_of_reach_is_tried_again_and_then_named(
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    no_pauses: None,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(DataError, match=r"Could not connect.*Check .* AWS_ENDPOINT_URL"):
            storage.fetch("s3://corpora/a", tmp_path)
    tries = [record for record in caplog.records if "trying again" in record.getMessage()]
    assert len(tries) == storage._TRIES - 1


@pytest.mark.parametrize("upload", [True, False])
def test_what_is_refused_is_not_asked_for_again(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, upload: bool
) -> None:
    proxy = through(lambda request: Fault("denied"))
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(DataError, match="AWS_SECRET_ACCESS_KEY") as caught:
        if upload:
            storage.put(tmp_path / "a", "s3://corpora/a")
        else:
            storage.fetch("s3://corpora/a", tmp_path)
    assert len(proxy.requests) == 1
    assert caught.value.exit_code == 2


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
    assert unfinished(bucket) == 0
    assert files_below(home()) == []


def test_a_download_that_another_process_is_at_is_made_beside_it(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path
) -> None:
    bucket.put_object(Key="a", Body=noise(1000))
    etag = bucket.Object("a").e_tag
    with storage._part_of(tmp_path / "a", etag) as others:
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
    claimed = storage._claim(path)
    assert claimed is not None
    claimed.write(b"new")
    claimed.close()
    assert path.read_bytes() == b"new"
    assert (tmp_path / "finished").read_bytes() == b""


# Killed processes


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    lines = ["import sys", "from pathlib import Path", "from ytrainer_core import storage", program]
    return subprocess.Popen([sys.executable, "-c", "\n".join(lines), *map(str, arguments)])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_download_after_a_kill_fetches_only_the_rest(
    bucket: Any,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 8 * MIB
    bucket.put_object(Key="a", Body=noise(size))
    proxy = through(first("GET", Fault("stall", at=0.75)))
    monkeypatch.setenv(storage.SECONDS_VARIABLE, "60")
    cache = tmp_path / "cache"
    process = start("storage.fetch('s3://corpora/a', Path(sys.argv[1]))", cache)
    arrived = 6 * MIB
    wait_for(lambda: sum(path.stat().st_size for path in files_below(cache)) == arrived)
    kill(process)
    assert not list(cache.rglob("a"))  # nothing stands under the file's own name
    before = proxy.sent
    assert storage.fetch("s3://corpora/a", cache).read_bytes() == noise(size)
    assert proxy.sent - before == size - arrived
    assert [path.name for path in files_below(cache)] == ["a"]


STORE = f"""
storage.PART_BYTES, storage.TRANSFERS = {PART}, 1
storage.put(Path(sys.argv[1]), 's3://corpora/a')
"""


@pytest.fixture
def killed_upload(
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_parts: None,
) -> FaultyProxy:
    """An upload of four parts, killed in the midst of the third."""
    proxy = through(first("PUT", Fault("stall"), part_of_target="partNumber=3"))
    monkeypatch.setenv(storage.SECONDS_VARIABLE, "60")
    (tmp_path / "a").write_bytes(noise(4 * PART))
    process = start(STORE, tmp_path / "a")
    wait_for(lambda: proxy.count("PUT", "partNumber=3") == 1)
    kill(process)
    return proxy


def test_an_upload_after_a_kill_shows_nothing_and_then_sends_only_the_rest(
    bucket: Any, killed_upload: FaultyProxy, tmp_path: Path
) -> None:
    assert storage.list_objects("s3://corpora") == []
    before = killed_upload.count("PUT")
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(4 * PART)
    assert before == 3
    assert killed_upload.count("PUT") - before == 2  # the third part and the fourth
    assert unfinished(bucket) == 0


def test_other_bytes_after_a_kill_are_not_mixed_with_the_parts_that_are_there(
    bucket: Any, killed_upload: FaultyProxy, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(noise(4 * PART, seed=1))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(4 * PART, seed=1)
    assert unfinished(bucket) == 0


def test_an_upload_whose_parts_were_cleared_away_begins_anew(
    bucket: Any, killed_upload: FaultyProxy, tmp_path: Path
) -> None:
    for upload in bucket.multipart_uploads.all():
        upload.abort()
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(4 * PART)


def test_a_part_that_is_not_the_files_is_sent_again(
    bucket: Any, killed_upload: FaultyProxy, tmp_path: Path
) -> None:
    [upload] = bucket.multipart_uploads.all()
    upload.Part(1).upload(Body=noise(PART, seed=9))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(4 * PART)


# Many transfers


def test_of_forty_transfers_over_a_bad_network_none_is_lost_and_none_is_damaged(
    bucket: Any,
    endpoint: str,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_parts: None,
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 2 * MIB)
    monkeypatch.setattr(storage_faults, "BUCKET", "corpora")
    transfers = storage_faults.draw_transfers(count=40, greatest=8_000_000, seed=1)
    proxy = through(seeded(seed=1))
    outcome = storage_faults.move_all(transfers, endpoint, tmp_path)
    assert (outcome.lost, outcome.corrupt) == ((), ())
    assert len(transfers) == 40
    assert max(transfer.size for transfer in transfers) == 8_000_000
    assert set(proxy.faults) == set(KINDS)
    assert sum(proxy.faults.values()) > len(proxy.requests) / 5


# Errors


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://corpora/missing.txt", "there is no such bucket or object"),
        ("s3://nowhere/a.txt", "there is no such bucket"),
        ("s3://corpora", "names no object"),
        ("s3://corpora/folder/", "names no object"),
        ("s3://corpora/folder/..", "names no object"),
    ],
)
def test_an_object_that_is_not_there_is_named(
    bucket: Any, tmp_path: Path, uri: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        storage.fetch(uri, tmp_path)
    assert str(caught.value).startswith(f"{uri}: ")
    assert said in str(caught.value)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("uri", ["s3://nowhere", "s3://nowhere/prefix/"])
def test_a_bucket_that_is_not_there_is_named(bucket: Any, tmp_path: Path, uri: str) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for call in (
        lambda: storage.list_objects(uri),
        lambda: storage.download_folder(uri, tmp_path),
        lambda: storage.upload_folder(tmp_path, uri),
    ):
        with pytest.raises(DataError, match=rf"^{uri.rstrip('/')}/?: there is no such bucket"):
            call()


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "corpora/a"])
def test_an_address_without_a_bucket_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match=rf"^{uri}: names no bucket"):
        storage.list_objects(uri)


def test_bytes_that_are_not_those_that_were_stored_are_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a.txt", Body=b"one", Metadata={"sha256": "0" * 64})
    with pytest.raises(DataError, match="not those that were stored"):
        storage.fetch("s3://corpora/a.txt", tmp_path)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["sha256", "Sha256"])
def test_metadata_names_are_read_however_the_store_spells_them(name: str) -> None:
    assert storage._kept({"Metadata": {name: "ab"}}) == "ab"


def test_missing_credentials_say_which_variables_to_set(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID"):
        storage.fetch("s3://corpora/a.txt", tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("403", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "the access key is unknown"),
        ("SignatureDoesNotMatch", "the secret is wrong"),
        ("SlowDown", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_refusal_says_what_to_check(code: str, said: str) -> None:
    from botocore.exceptions import ClientError

    refusal = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")
    error = storage._explained("s3://b/k", refusal)
    assert str(error).startswith("s3://b/k: ")
    assert said in str(error)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ENDPOINT_URL", "not an address"), ("AWS_RETRY_MODE", "never")],
)
def test_a_wrong_setting_of_the_environment_is_named(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(DataError, match=value):
        storage.fetch("s3://corpora/a", tmp_path)


def test_neither_logs_nor_messages_hold_the_credentials(
    bucket: Any,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = "FwoGZXIvYXdzE-this-is-the-session-token"
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    caplog.set_level(logging.DEBUG)
    through(first("PUT", Fault("reset_before"), Fault("slow_down"), Fault("denied")))
    (tmp_path / "a").write_bytes(b"a")
    messages = []
    for uri in ("s3://corpora/a", "s3://corpora/b", "s3://corpora/c"):
        try:
            storage.put(tmp_path / "a", uri)
        except DataError as error:
            messages.append(str(error))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage, "_TRIES", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        storage.fetch("s3://corpora/a", tmp_path)
    said = "\n".join([caplog.text, *messages, str(caught.value)])
    assert len(messages) == 1
    assert "127.0.0.1:9" in said
    assert "trying again" in caplog.text
    assert SECRET not in said
    assert token not in said


def test_without_boto3_the_way_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DataError, match=r"pip install 'ytrainer\[pipelines\]'"):
        storage.fetch("s3://corpora/a.txt", tmp_path)


def test_a_corpus_is_read_from_a_bucket_and_its_rows_say_so(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="rows.txt", Body=b"one\ntwo\n")
    config = DataConfig(train="s3://corpora/rows.txt", validation_fraction=0)  # type: ignore[arg-type]
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=0)
    assert list(corpus.train["origin"]) == ["s3://corpora/rows.txt:1", "s3://corpora/rows.txt:2"]
    assert corpus.manifest["sources"][0]["path"] == "s3://corpora/rows.txt"
