"""A proxy before an HTTP server that breaks connections by plan and counts what passed.

Every connection serves one request, so that a fault per connection is a fault per request. It reads
the whole request, asks the server, and passes the answer on; a Fault says where that ends.
"""

from __future__ import annotations

import random
import re
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

KINDS = ("reset_before", "reset_midway", "slow_down", "truncated", "stall")
"""What a network and a busy store do; the kinds that a seeded plan draws from.

reset_before: the request is carried out, and a reset takes the place of the answer.
reset_midway: a reset in the midst of the body, of a request that has one, else of the answer.
slow_down: the store answers 503 SlowDown and does nothing.
truncated: the answer's head is right, but its body ends early, in good order.
stall: like reset_midway, but nothing happens any more instead of the reset.
"""

OTHERS = ("denied", "flipped_bit", "no_ranges", "forgotten")
"""Further kinds.

denied: 403 SignatureDoesNotMatch. flipped_bit: one bit of the answer's body is another one.
no_ranges: the server is asked for the whole object, whatever range was asked for.
forgotten: the request is carried out, and the answer is 404 NoSuchUpload: what its repetition
meets in stores that forget an upload once it is complete.
"""

_CUT = ("reset_midway", "truncated", "stall")  # of an answer without a body nothing arrives
_BLOCK = 64 << 10
_ERROR = (
    "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n"
    "Connection: close\r\n\r\n"
)
_REFUSALS = {
    "slow_down": ("503 Slow Down", "SlowDown"),
    "denied": ("403 Forbidden", "SignatureDoesNotMatch"),
    "forgotten": ("404 Not Found", "NoSuchUpload"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one connection. at: after which share of the body, below 1."""

    kind: str
    at: float = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """One request that reached the proxy. headers: lower-case names."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def repeated(self) -> bool:
        """Whether botocore sent it again: it counts its attempts in a header."""
        attempt = re.match(r"attempt=(\d+)", self.headers.get("amz-sdk-request", ""))
        return attempt is not None and int(attempt[1]) > 1


Plan = Callable[[Request], Fault | None]


def no_faults(request: Request) -> Fault | None:
    return None


def first(method: str, *faults: Fault, part_of_target: str = "") -> Plan:
    """The first requests of a method (and whose target holds a text) fail, one after the other."""
    left = list(faults)

    def plan(request: Request) -> Fault | None:
        meant = request.method == method and part_of_target in request.target
        return left.pop(0) if meant and left else None

    return plan


def seeded(seed: int, share: float = 1 / 3) -> Plan:
    """A fault on about `share` of the connections, its kind and place drawn by a seed."""
    draw = random.Random(seed)

    def plan(request: Request) -> Fault | None:
        chance, kind, at = draw.random(), draw.choice(KINDS), draw.uniform(0.05, 0.95)
        return Fault(kind, at) if chance < share else None

    return plan


class FaultyProxy:
    """Listens on a free port of this machine while its block lasts.

    requests: all that came, in order. faults: how many of each kind were made. sent: bytes of
    objects (not of listings) that went to the client.
    """

    def __init__(self, server: str, plan: Plan = no_faults, stall_seconds: float = 60) -> None:
        self.plan, self.requests = plan, list[Request]()
        self.faults: Counter[str] = Counter()
        self.sent = 0
        parts = urlsplit(server)
        self._server = (parts.hostname or "", parts.port or 80)
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        proxy = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # the client hung up
                    proxy._serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._listener = Listener(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def count(self, method: str, part_of_target: str = "") -> int:
        """Requests of one method whose target holds a text."""
        return sum(
            request.method == method and part_of_target in request.target
            for request in list(self.requests)
        )

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        head = _read_head(stream)
        if not head:
            return
        request = _parse(head)
        with self._lock:
            self.requests.append(request)
            fault = self.plan(request)
            if fault:
                self.faults[fault.kind] += 1
        kind, at = (fault.kind, fault.at) if fault else ("", 0.0)
        if "expect" in request.headers:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(request.headers.get("content-length", 0))
        if length and kind in ("reset_midway", "stall"):
            stream.read(int(at * length))
            self._end(client, stream, kind)
            return
        body = stream.read(length)
        if kind in ("slow_down", "denied"):
            _refuse(client, request, kind)
            return
        with socket.create_connection(self._server) as server:
            if kind == "no_ranges":
                head = _without(head, "range")
            server.sendall(_closing(_without(head, "expect")) + body)
            self._answer(client, stream, server.makefile("rb"), request, kind, at)

    def _answer(
        self,
        client: socket.socket,
        stream: IO[bytes],
        answer: IO[bytes],
        request: Request,
        kind: str,
        at: float,
    ) -> None:
        raw = _read_head(answer)
        head = _closing(raw)
        told = _headers(raw).get("content-length")
        body: IO[bytes] | None = answer if request.method != "HEAD" else None
        length = int(told or 0) if body else 0
        if kind == "reset_before" or (kind in _CUT and not length):
            answer.read()  # until the server has done its work
            self._end(client, stream, kind)
            return
        if kind == "forgotten":
            answer.read()
            _refuse(client, request, kind)
            return
        client.sendall(head)
        cut = int(at * length) if kind in _CUT else length
        flip = int(at * length) if kind == "flipped_bit" else -1
        passed = 0
        while passed < cut:
            block = bytearray(answer.read(min(_BLOCK, cut - passed)))
            if not block:
                break
            if passed <= flip < passed + len(block):
                block[flip - passed] ^= 1
            client.sendall(block)
            passed += len(block)
            if request.method == "GET" and "?" not in request.target:
                with self._lock:
                    self.sent += len(block)
        if body and told is None:
            client.sendall(answer.read())  # chunks, as they are
        self._end(client, stream, kind)

    def _end(self, client: socket.socket, stream: IO[bytes], kind: str) -> None:
        if kind == "stall":
            client.settimeout(self._stall_seconds)
            with suppress(OSError):  # a timeout, or the client hung up
                while client.recv(_BLOCK):
                    pass
        if kind.startswith("reset"):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.close()
        if kind.startswith("reset"):
            client.close()


def _refuse(client: socket.socket, request: Request, kind: str) -> None:
    status, code = _REFUSALS[kind]
    text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    client.sendall(_ERROR.format(status=status, length=len(text)).encode())
    client.sendall(b"" if request.method == "HEAD" else text.encode())


def _read_head(stream: IO[bytes]) -> bytes:
    lines = []
    while line := stream.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _parse(head: bytes) -> Request:
    method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
    return Request(method, target, _headers(head))


def _without(head: bytes, name: str) -> bytes:
    return re.sub(rb"(?im)^" + name.encode() + rb":.*\r\n", b"", head)


def _closing(head: bytes) -> bytes:
    return _without(head, "connection")[:-2] + b"Connection: close\r\n\r\n"
