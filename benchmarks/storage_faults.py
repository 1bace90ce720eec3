"""Claim: over a bad network nothing is lost and nothing arrives damaged.

    python -m benchmarks.storage_faults

200 transfers of 1 kB to 200 MB, uploads and downloads by turns, against a real S3 server (moto)
behind a proxy that breaks every third connection: resets before and in the midst of an answer or a
body, 503 SlowDown, bodies cut short, stalls. Every object is read back past the proxy and without
boto3, and its sha256 compared with that of the bytes as they were made. MB/s are those of Python's
proxy and server on one machine: they say what the faults cost, not how fast a store is.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import logging
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks import measure
from benchmarks.measure import MIB, BenchmarkError
from tests.unit.data.faulty_proxy import FaultyProxy, seeded
from ytrainer_core import storage
from ytrainer_core.errors import YTrainerError

BUCKET = "faults"
LEAST_BYTES = 1_000
LARGE_BYTES, LARGE = 64_000_000, 4
"""No more than LARGE transfers are above LARGE_BYTES: the rest would only repeat them."""

WORKERS = 4
STALL_SECONDS = "2"
"""Seconds without a byte after which storage calls a connection dead; 60 where nothing is set."""

_BLOCK = 1 << 20
# moto looks only at the scope of a signature, to learn which service is meant.
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}


@dataclass(frozen=True, slots=True)
class Transfer:
    """One object to be made and moved. size in bytes."""

    name: str
    size: int
    upload: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the transfers. lost and corrupt: their names, with what was said."""

    lost: tuple[str, ...]
    corrupt: tuple[str, ...]
    moved: int
    seconds: float
    continued: int


def draw_transfers(count: int, greatest: int, seed: int) -> list[Transfer]:
    """Sizes log-uniform from LEAST_BYTES to `greatest`, which is one of them."""
    draw = random.Random(seed)
    sizes = [greatest]
    while len(sizes) < count:
        size = round(math.exp(draw.uniform(math.log(LEAST_BYTES), math.log(greatest))))
        if size <= LARGE_BYTES or sum(other > LARGE_BYTES for other in sizes) < LARGE:
            sizes.append(size)
    draw.shuffle(sizes)
    return [
        Transfer(f"{number:03d}.bin", size, number % 2 == 0, draw.getrandbits(32))
        for number, size in enumerate(sizes)
    ]


def move_all(transfers: Sequence[Transfer], server: str, folder: Path) -> Outcome:
    """Move objects by `storage`, which finds the proxy in AWS_ENDPOINT_URL; compare at `server`."""
    counter = _Counter()
    logger = logging.getLogger(storage.__name__)
    logger.addHandler(counter)
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            said = list(pool.map(lambda transfer: _move(transfer, server, folder), transfers))
    finally:
        logger.removeHandler(counter)
    return Outcome(
        lost=tuple(text for kind, text in said if kind == "lost"),
        corrupt=tuple(text for kind, text in said if kind == "corrupt"),
        moved=sum(transfer.size for transfer in transfers),
        seconds=time.monotonic() - started,
        continued=counter.records,
    )


def _move(transfer: Transfer, server: str, folder: Path) -> tuple[str, str]:
    """(lost, corrupt or '', what was said)."""
    uri, path = f"s3://{BUCKET}/{transfer.name}", folder / transfer.name
    made = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(transfer):
            made.update(block)
            file.write(block)
    try:
        if transfer.upload:
            storage.put(path, uri)
            arrived = _sha256_there(server, transfer.name)
        else:
            _place(server, transfer.name, path, made.hexdigest())
            fetched = storage.fetch(uri, folder / "fetched")
            arrived = _sha256_here(fetched)
            fetched.unlink()
    except YTrainerError as error:
        return "lost", str(error)
    finally:
        path.unlink()
    _ask(server, "DELETE", f"/{BUCKET}/{transfer.name}")
    return ("", "") if arrived == made.hexdigest() else ("corrupt", transfer.name)


def _blocks(transfer: Transfer) -> Iterator[bytes]:
    draw, left = random.Random(transfer.seed), transfer.size
    while left:
        block = draw.randbytes(min(_BLOCK, left))
        left -= len(block)
        yield block


class _Counter(logging.Handler):
    """Counts what storage tried again itself; it says so once each."""

    records = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1


@contextmanager
def _asked(
    server: str, method: str, target: str, body: Path | None = None, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()} | _SIGNED
    data = body.open("rb") if body else None
    if body:
        named["Content-Length"] = str(body.stat().st_size)
    try:
        connection.request(method, quote(target, safe="/?=-"), data, named)
        answer = connection.getresponse()
        if answer.status >= http.client.BAD_REQUEST:
            raise BenchmarkError(f"{method} {target}: the server says {answer.status}")
        yield answer
    finally:
        connection.close()
        if data:
            data.close()


def _ask(server: str, method: str, target: str) -> bytes:
    with _asked(server, method, target) as answer:
        return answer.read()


def _place(server: str, name: str, path: Path, digest: str) -> None:
    with _asked(server, "PUT", f"/{BUCKET}/{name}", path, x_amz_meta_sha256=digest) as answer:
        answer.read()


def _sha256_there(server: str, name: str) -> str:
    with _asked(server, "GET", f"/{BUCKET}/{name}") as answer:
        return _sha256(iter(lambda: answer.read(_BLOCK), b""))


def _sha256_here(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256(iter(lambda: file.read(_BLOCK), b""))


def _sha256(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def moto_server() -> Iterator[str]:
    """An S3 server in a process of its own: its address."""
    measure.require("moto", "dev")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    server = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                _ask(server, "PUT", f"/{BUCKET}")
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise BenchmarkError("moto's server did not start within 30 seconds")
        yield server
    finally:
        process.terminate()
        process.wait()


def report(outcome: Outcome, proxy: FaultyProxy, transfers: int) -> str:
    """The table of one run."""
    faults = sum(proxy.faults.values())
    repeated = sum(request.repeated for request in proxy.requests)
    rows = [
        ("transfers", f"{transfers}, {outcome.moved / 1e6:,.0f} MB"),
        ("lost", str(len(outcome.lost))),
        ("corrupt", str(len(outcome.corrupt))),
        ("connections", f"{len(proxy.requests):,}"),
        ("with a fault", f"{faults:,} ({faults / max(1, len(proxy.requests)):.0%})"),
        *((f"  {kind}", f"{count:,}") for kind, count in sorted(proxy.faults.items())),
        ("requests repeated by botocore", f"{repeated:,}"),
        ("tried again by storage", f"{outcome.continued:,}"),
        ("time", f"{outcome.seconds:,.0f} s, {outcome.moved / 1e6 / outcome.seconds:,.1f} MB/s"),
    ]
    return measure.table(("storage over a bad network", ""), rows)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--transfers", type=int, default=200)
    options.add_argument("--greatest", type=int, default=200_000_000, help="bytes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--share", type=float, default=1 / 3, help="of connections with a fault")
    chosen = options.parse_args()
    transfers = draw_transfers(chosen.transfers, chosen.greatest, chosen.seed)
    plan = seeded(chosen.seed, chosen.share)
    with (
        tempfile.TemporaryDirectory() as folder,
        moto_server() as server,
        FaultyProxy(server, plan) as proxy,
    ):
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "YTRAINER_HOME": folder,
            storage.SECONDS_VARIABLE: STALL_SECONDS,
        }
        outcome = move_all(transfers, server, Path(folder))
        unfinished = _ask(server, "GET", f"/{BUCKET}?uploads").count(b"<Upload>")
    print(report(outcome, proxy, len(transfers)))
    print(f"\nuploads begun twice since the first answer was lost: {unfinished}")
    print(f"memory: {measure.resident_bytes()[1] / MIB:,.0f} MiB at most, proxy included")
    if outcome.lost or outcome.corrupt:
        raise BenchmarkError("\n".join((*outcome.lost, *outcome.corrupt)))


if __name__ == "__main__":
    main()
