"""Over a network that breaks nothing is lost, nothing is damaged, and a dead end is named."""

from __future__ import annotations

import random
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import KINDS, Fault, FaultyProxy, Request, first, seeded
from storage_examples import MIB, PART, files_below, noise

from benchmarks import storage_faults
from ytrainer_core import storage
from ytrainer_core.errors import DataError
from ytrainer_core.files import home
from ytrainer_core.storage import faults, patience, upload


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
    cuts = patience._TRIES + 2
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
    waiting = patience.Patience("s3://b/k", Clock())
    for _ in range(5):
        waiting.bear(ConnectionResetError("gone"))
    assert Clock.pauses == [0.5, 1, 2, 4, 8]
    with pytest.raises(DataError, match=r"^s3://b/k: gone\. Check the address"):
        waiting.bear(ConnectionResetError("gone"))


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
    assert faults.passes(ClientError(answer, "PutObject")) is passes


@pytest.mark.parametrize("kind", ["slow_down", "reset_before", "truncated"])
def test_a_store_that_never_answers_well_ends_with_an_error(
    bucket: Any, through: Callable[..., FaultyProxy], tmp_path: Path, no_pauses: None, kind: str
) -> None:
    bucket.put_object(Key="a", Body=b"a")
    proxy = through(lambda request: Fault(kind, at=0.0) if request.method == "GET" else None)
    with pytest.raises(DataError, match=r"^s3://corpora/a: "):
        storage.fetch("s3://corpora/a", tmp_path)
    assert proxy.faults == {kind: patience._TRIES}
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
    assert len(tries) == patience._TRIES - 1


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


def test_of_forty_transfers_over_a_bad_network_none_is_lost_and_none_is_damaged(
    bucket: Any,
    endpoint: str,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_parts: None,
) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", 2 * MIB)
    monkeypatch.setattr(storage_faults, "BUCKET", "corpora")
    transfers = storage_faults.draw_transfers(count=40, greatest=8_000_000, seed=1)
    proxy = through(seeded(seed=1))
    outcome = storage_faults.move_all(transfers, endpoint, tmp_path)
    assert (outcome.lost, outcome.corrupt) == ((), ())
    assert len(transfers) == 40
    assert max(transfer.size for transfer in transfers) == 8_000_000
    assert set(proxy.faults) == set(KINDS)
    assert sum(proxy.faults.values()) > len(proxy.requests) / 5
