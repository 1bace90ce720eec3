"""After a kill nothing half stands anywhere, and only the rest is moved."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import Fault, FaultyProxy, first
from storage_examples import MIB, PART, files_below, noise, uploads_begun

from ytrainer_core import storage


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
from ytrainer_core.storage import store, upload
upload.PART_BYTES, store.TRANSFERS = {PART}, 1
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
    assert uploads_begun(bucket) == 0


def test_other_bytes_after_a_kill_are_not_mixed_with_the_parts_that_are_there(
    bucket: Any, killed_upload: FaultyProxy, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(noise(4 * PART, seed=1))
    storage.put(tmp_path / "a", "s3://corpora/a")
    assert bucket.Object("a").get()["Body"].read() == noise(4 * PART, seed=1)
    assert uploads_begun(bucket) == 0


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
