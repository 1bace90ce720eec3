"""Requests to one store: each tried again while that helps, and several at a time."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from ytrainer_core.errors import DataError
from ytrainer_core.storage.addresses import SCHEME, address, split_folder
from ytrainer_core.storage.client import TRANSFERS, new_client
from ytrainer_core.storage.faults import transfer_faults
from ytrainer_core.storage.patience import Patience, Stopped

# Name under which an object's metadata keep the sha256 of its bytes.
SHA256 = "sha256"

Head = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as its bucket lists it. size in bytes; etag without its quotes."""

    uri: str
    size: int
    etag: str


def list_objects(uri: str) -> list[StoredObject]:
    """All objects of s3://bucket, or below s3://bucket/prefix (that one object too), by address.

    A prefix ends where a name ends: `data` lists `data/a` and not `data2/a`. Empty folder marks
    (keys that end in /) are left out. Raises DataError like `fetch`.
    """
    split_folder(uri)
    return Store(uri).listing(uri)


class Store:
    """One client and the transfers over it, several at a time."""

    def __init__(self, uri: str) -> None:
        self.client = new_client(uri)
        self.endpoint: str = self.client.meta.endpoint_url
        self.stopped = threading.Event()

    def ask(
        self, uri: str, call: Callable[..., Any], data: bytes | None = None, /, **arguments: Any
    ) -> Any:
        """What the store answers to one request; data: the bytes to send. Raises DataError."""
        if data is not None:
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            arguments |= {"Body": data, "ContentMD5": base64.b64encode(digest).decode()}
        patience = Patience(uri, self.stopped)
        while True:
            if self.stopped.is_set():
                raise Stopped
            try:
                return call(**arguments)
            except transfer_faults() as error:
                patience.bear(error)

    def head(self, uri: str) -> Head:
        """Length, tag and metadata of an object."""
        head: Head = self.ask(uri, self.client.head_object, **address(uri))
        return head

    def listing(self, uri: str) -> list[StoredObject]:
        """The objects at and below an address, page by page."""
        bucket, prefix = split_folder(uri)
        below = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        found: list[StoredObject] = []
        more: dict[str, str] = {}
        while True:
            page = self.ask(uri, self.client.list_objects_v2, Bucket=bucket, Prefix=prefix, **more)
            found += [
                StoredObject(f"{SCHEME}{bucket}/{key}", entry["Size"], entry["ETag"].strip('"'))
                for entry in page.get("Contents", [])
                if not (key := entry["Key"]).endswith("/")
                and (key == prefix or key.startswith(below))
            ]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda stored: stored.uri)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def together(
        self, work: Callable[[T], R], items: Sequence[T], done: Callable[[], None]
    ) -> list[R]:
        """Work on several items at a time; results in the order of items. The first fault ends all.

        done: called after each item.
        """
        pool = ThreadPoolExecutor(TRANSFERS)
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                if future.exception():
                    break
                done()
        finally:
            if not all(future.done() and not future.exception() for future in futures):
                self.stopped.set()
            pool.shutdown(cancel_futures=True)
        ended = [future for future in futures if not future.cancelled()]
        faults = [fault for future in ended if (fault := future.exception())]
        told = [fault for fault in faults if not isinstance(fault, Stopped)]
        if told and all(isinstance(fault, DataError) for fault in told):
            raise DataError(*dict.fromkeys(str(fault) for fault in told)) from told[0]
        for fault in told or faults:
            if not isinstance(fault, DataError):
                raise fault
        return [future.result() for future in futures]


def sha256_of(head: Head) -> str:
    """The sha256 in an object's metadata, or nothing. Some stores capitalize the names."""
    named = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    return str(named.get(SHA256, ""))
