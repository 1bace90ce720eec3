"""The only import of boto3: objects and folders in and out, checked, and whole or not at all.

Any S3-compatible endpoint serves (AWS_ENDPOINT_URL); credentials come from where boto3 finds them.
botocore repeats a request that got no answer or a busy one (AWS_RETRY_MODE, AWS_MAX_ATTEMPTS).
Repeated here is what it gives up or takes as it comes: a body that ends early while it is read, a
listing cut short. boto3's transfer manager is not used: it reads anew what a killed process had
half read, leaves that process's uploaded parts in the bucket, and keeps no sha256.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
import random
import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from ytrainer_core.errors import DataError
from ytrainer_core.files import home, sha256_file, sha256_json
from ytrainer_core.progress import Progress

SCHEME = "s3://"

SECONDS_VARIABLE = "YTRAINER_S3_SECONDS"
"""Environment variable: seconds without a byte after which a connection is dead; 60 if unset."""

PART_BYTES = 8 << 20
"""Larger files are uploaded in parts of this size."""

TRANSFERS = 4
"""Files of a folder that are on their way at once, and parts of one file."""

# S3 takes no more parts of one object.
_MOST_PARTS = 10_000
# What a broken connection can cost at most of what has arrived, in bytes.
_READ_BYTES = 256 << 10
_CONNECT_SECONDS = 10.0
# Tries without a byte of progress before a transfer is given up; each holds botocore's own tries.
_TRIES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds, the upper ends
# Times that an object is read from its beginning, because it changed or arrived damaged.
_STARTS = 3

# Name under which an object's metadata keep the sha256 of its bytes.
_SHA256 = "sha256"
# Names of unfinished downloads, which lie beside what they become.
_PART_PREFIX, _PART_SUFFIX = ".s3-", ".part"

_REMEDIES = {
    "NoSuchBucket": "there is no such bucket. Correct the name, or create the bucket",
    "NoSuchKey": "there is no such object. Correct the key",
    "404": "there is no such bucket or object. Correct the address",
    "400": "the request is refused. Check AWS_DEFAULT_REGION, and whether the session has ended",
    "403": "access is denied. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy",
    "AccessDenied": "access is denied. Check the bucket's policy for this user",
    "InvalidAccessKeyId": "the access key is unknown. Check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret is wrong. Check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session has ended. Sign in again",
}
_OVERTAKEN = {
    "PreconditionFailed": "the object changed while it was read",
    "412": "the object changed while it was read",
    "InvalidRange": "the object became shorter while it was read",
    "416": "the object became shorter while it was read",
    "NoSuchUpload": "the upload that was begun is no longer there",
}
# Refusals that pass though their status does not say so: bytes were lost or damaged on the way.
_PASSING = {"RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}

Head = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)
_client_lock = threading.Lock()  # boto3's default session makes one client at a time


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as its bucket lists it. size in bytes; etag without its quotes."""

    uri: str
    size: int
    etag: str


def is_remote(name: str) -> bool:
    """Whether a name of a file or folder is an address in object storage."""
    return name.startswith(SCHEME)


def fetch(uri: str, folder: Path) -> Path:
    """Download s3://bucket/key into `folder` and return the file. It keeps the key's last name.

    The bytes are checked against the object's length, and against the sha256 that `put` left where
    there is one. A file that is already there with the object's own tag is not fetched again; a
    download that was cut off, also by a kill, goes on where it stopped.
    Raises DataError where boto3, the bucket, the key or the credentials are missing or wrong, and
    where the endpoint stays out of reach.
    """
    name = PurePosixPath(_split(uri)[1]).name
    store = _Store(uri)

    def place(head: Head) -> Path:
        return folder / sha256_json([uri, store.endpoint, head["ETag"]]) / name

    def there(path: Path, head: Head) -> bool:
        return path.is_file() and path.stat().st_size == head["ContentLength"]

    return store.download(uri, place, there)


def put(path: Path, uri: str) -> str:
    """Upload one file to s3://bucket/key and return its sha256 (hex), kept with the object.

    The object appears only when all bytes have arrived. Files above PART_BYTES go in parts, which
    the next `put` of the same bytes takes up where this one is killed, and which it aborts if the
    bytes are others. (Where the answer to the very first request is lost, an empty upload stays in
    the bucket, unseen, until its lifecycle rules clear it.) Raises DataError like `fetch`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, so it cannot be stored at {uri}. Correct the path.")
    _split(uri)
    return _Store(uri).upload(path, uri)


def list_objects(uri: str) -> list[StoredObject]:
    """All objects of s3://bucket, or below s3://bucket/prefix (that one object too), by address.

    A prefix ends where a name ends: `data` lists `data/a` and not `data2/a`. Empty folder marks
    (keys that end in /) are left out. Raises DataError like `fetch`.
    """
    _split_folder(uri)
    return _Store(uri).listing(uri)


def download_folder(uri: str, folder: Path) -> list[Path]:
    """Download all objects below s3://bucket/prefix/ into `folder`; their paths, sorted.

    What is there already with the same sha256 is left alone (of objects that `put` did not store:
    with the same MD5, where that is their tag). Nothing is deleted. Raises DataError like `fetch`,
    where nothing lies below the prefix, and where a key cannot be a file's name.
    """
    _split_folder(uri)
    root = uri.rstrip("/") + "/"
    store = _Store(uri)
    found = {stored.uri.removeprefix(root): stored for stored in store.listing(root)}
    _check_names(uri, found.keys())

    def one(name: str) -> Path:
        return store.download(found[name].uri, lambda head: folder / name, _same)

    with Progress(f"download {uri}", len(found)) as progress:
        paths = store.together(one, sorted(found), progress.advance)
    for path in folder.rglob(
        f"{_PART_PREFIX}*{_PART_SUFFIX}"
    ):  # of objects that have changed since
        if part := _claim(path):
            path.unlink(missing_ok=True)
            part.close()
    return paths


def upload_folder(folder: Path, uri: str) -> dict[str, str]:
    """Upload all files below `folder` to s3://bucket/prefix/: name below the folder -> sha256.

    What is there already with the same sha256 is left alone. Nothing is deleted. Raises DataError
    like `fetch`, and where there is no file.
    """
    _split_folder(uri)
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and not file.match(f"{_PART_PREFIX}*{_PART_SUFFIX}")
    )
    if not names:
        raise DataError(
            f"{folder}: no such folder, or no file in it, so nothing can be stored at {uri}. "
            "Correct the path."
        )
    root = uri.rstrip("/")
    store = _Store(uri)
    sizes = {stored.uri: stored.size for stored in store.listing(f"{root}/")}

    def one(name: str) -> str:
        path, target = folder / name, f"{root}/{name}"
        if sizes.get(target) == path.stat().st_size:
            digest = sha256_file(path)
            if _kept(store.head(target)) == digest:
                return digest
        return store.upload(path, target)

    with Progress(f"upload {uri}", len(names)) as progress:
        digests = store.together(one, names, progress.advance)
    return dict(zip(names, digests, strict=True))


class _Overtaken(DataError):
    """Somebody else changed or removed what this transfer was at work on."""


class _Stopped(Exception):
    """Another transfer of the same call has failed, so this one need not go on."""


class _Patience:
    """How often in a row something may fail before it is given up."""

    def __init__(self, uri: str, stopped: threading.Event) -> None:
        self.uri, self.stopped, self.failures = uri, stopped, 0

    def bear(self, error: Exception) -> None:
        """Wait, longer every time. Raises DataError where waiting helps not, or not any more."""
        self.failures += 1
        if self.failures >= _TRIES or not _passes(error):
            raise _explained(self.uri, error) from error
        pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.failures - 1)))
        logger.warning("%s: %s; trying again in %.1f s", self.uri, _said(error), pause)
        if self.stopped.wait(pause):
            raise _Stopped


class _Store:
    """One client and the transfers over it, several at a time."""

    def __init__(self, uri: str) -> None:
        self.client = _client(uri)
        self.endpoint: str = self.client.meta.endpoint_url
        self.stopped = threading.Event()

    def ask(
        self, uri: str, call: Callable[..., Any], data: bytes | None = None, /, **arguments: Any
    ) -> Any:
        """What the store answers to one request; data: the bytes to send. Raises DataError."""
        if data is not None:
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            arguments |= {"Body": data, "ContentMD5": base64.b64encode(digest).decode()}
        patience = _Patience(uri, self.stopped)
        while True:
            if self.stopped.is_set():
                raise _Stopped
            try:
                return call(**arguments)
            except _faults() as error:
                patience.bear(error)

    def head(self, uri: str) -> Head:
        """Length, tag and metadata of an object."""
        head: Head = self.ask(uri, self.client.head_object, **_address(uri))
        return head

    def listing(self, uri: str) -> list[StoredObject]:
        bucket, prefix = _split_folder(uri)
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

    def download(
        self, uri: str, place: Callable[[Head], Path], there: Callable[[Path, Head], bool]
    ) -> Path:
        """Bring an object to where `place` wants it, unless it is `there`, and check its bytes."""
        fault = ""
        for _ in range(_STARTS):
            head = self.head(uri)
            target = place(head)
            if there(target, head):
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            with _part_of(target, head["ETag"]) as part:
                path = Path(part.name)
                try:
                    self._fill(part, uri, head)
                    fault = _difference(uri, path, head)
                except _Overtaken as error:
                    fault = str(error)
                if not fault:
                    os.fsync(part.fileno())
                    path.chmod(0o644)  # other users of a shared volume must read
                    path.replace(target)
                    return target
                path.unlink()
        raise DataError(fault)

    def _fill(self, part: IO[bytes], uri: str, head: Head) -> None:
        """Append to `part` what it lacks of the object, over as many connections as it takes."""
        patience = _Patience(uri, self.stopped)
        have = part.seek(0, os.SEEK_END)
        while have < head["ContentLength"]:
            error = self._append(part, uri, head["ETag"], have)
            before, have = have, part.seek(0, os.SEEK_END)
            if have > before:
                patience.failures = 0
            if have < head["ContentLength"]:
                patience.bear(error or ConnectionError("the answer ended early"))

    def _append(self, part: IO[bytes], uri: str, etag: str, have: int) -> Exception | None:
        """Read on from byte `have`. Returns the fault that ended it, if one did."""
        onward = {"Range": f"bytes={have}-"} if have else {}
        answer = self.ask(uri, self.client.get_object, IfMatch=etag, **_address(uri), **onward)
        if have and answer["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.PARTIAL_CONTENT:
            part.truncate(0)  # the store knows no ranges and begins anew
        with closing(answer["Body"]) as body:
            while not self.stopped.is_set():
                try:
                    block = body.read(_READ_BYTES)
                except _faults() as error:
                    return error
                if not block:
                    return None
                part.write(block)
        raise _Stopped

    def upload(self, path: Path, uri: str) -> str:
        """Store a file with its sha256, and look that it is what can be seen there."""
        state = path.stat()
        if state.st_size <= PART_BYTES:
            data = path.read_bytes()
            size, digest = len(data), hashlib.sha256(data).hexdigest()
            put_object, kept = self.client.put_object, {_SHA256: digest}
            self.ask(uri, put_object, data, Metadata=kept, **_address(uri))
        else:
            size, digest = state.st_size, sha256_file(path)
            self._upload_parts(path, uri, digest, state)
        head = self.head(uri)
        if head["ContentLength"] != size or _kept(head) != digest:
            raise DataError(
                f"{uri}: what can be seen there is not {path}: it was stored from elsewhere "
                "meanwhile, or the store keeps no metadata. Run it again."
            )
        return digest

    def _upload_parts(self, path: Path, uri: str, digest: str, state: os.stat_result) -> None:
        part_bytes = max(PART_BYTES, -(-state.st_size // _MOST_PARTS))
        with _record(self.endpoint, uri) as record:
            upload, there = self._begin(uri, digest, part_bytes, record)
            named = {"UploadId": upload, **_address(uri)}

            def send(number: int) -> dict[str, Any]:
                with path.open("rb") as file:
                    file.seek((number - 1) * part_bytes)
                    data = file.read(part_bytes)
                tag = there.get(number, "")
                md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
                if tag.strip('"') != md5:
                    call = self.client.upload_part
                    tag = self.ask(uri, call, data, PartNumber=number, **named)["ETag"]
                return {"PartNumber": number, "ETag": tag}

            numbers = range(1, -(-state.st_size // part_bytes) + 1)
            parts = self.together(send, numbers, lambda: None)
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
                self.ask(uri, self.client.abort_multipart_upload, **named)
                _forget(record)
                raise DataError(
                    f"{path}: changed while it was stored at {uri}. Store it when it is finished."
                )
            with suppress(_Overtaken):  # done, but the answer was lost: upload() looks at it
                complete = self.client.complete_multipart_upload
                self.ask(uri, complete, MultipartUpload={"Parts": parts}, **named)
            _forget(record)

    def _begin(
        self, uri: str, digest: str, part_bytes: int, record: IO[bytes] | None
    ) -> tuple[str, dict[int, str]]:
        """(upload id, part number -> tag of what is there), from the record of a cut-off upload."""
        plan = {"sha256": digest, "part_bytes": part_bytes}
        earlier = _recorded(record)
        if earlier:
            named = {"UploadId": earlier.pop("upload"), **_address(uri)}
            try:
                if earlier == plan:
                    return named["UploadId"], self._parts(uri, named)
                self.ask(uri, self.client.abort_multipart_upload, **named)
            except DataError as error:
                logger.warning("%s: an earlier upload is left alone: %s", uri, error)
        create = self.client.create_multipart_upload
        upload = self.ask(uri, create, Metadata={_SHA256: digest}, **_address(uri))["UploadId"]
        if record:
            _forget(record)
            record.write(json.dumps(plan | {"upload": upload}).encode())
            record.flush()
        return upload, {}

    def _parts(self, uri: str, named: dict[str, Any]) -> dict[int, str]:
        pages = self.client.get_paginator("list_parts")
        found = self.ask(uri, lambda: pages.paginate(**named).build_full_result())
        return {part["PartNumber"]: part["ETag"] for part in found.get("Parts", [])}

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
        told = [fault for fault in faults if not isinstance(fault, _Stopped)]
        if told and all(isinstance(fault, DataError) for fault in told):
            raise DataError(*dict.fromkeys(str(fault) for fault in told)) from told[0]
        for fault in told or faults:
            if not isinstance(fault, DataError):
                raise fault
        return [future.result() for future in futures]


def _split_folder(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not bucket:
        raise DataError(f"{uri}: names no bucket. Write it as s3://bucket or s3://bucket/prefix/.")
    return bucket, prefix


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not bucket or key.rpartition("/")[2] in ("", ".", ".."):
        raise DataError(f"{uri}: names no object. Write it as s3://bucket/key.")
    return bucket, key


def _address(uri: str) -> dict[str, str]:
    return dict(zip(("Bucket", "Key"), _split(uri), strict=True))


def _check_names(uri: str, names: Collection[str]) -> None:
    """Refuse keys that would lie outside of the folder, or in each other's place."""
    if not names:
        raise DataError(f"{uri}: no object lies below it. Correct the prefix.")
    paths = [(name, PurePosixPath(name)) for name in names]
    faults = [
        f"{uri}: the key that goes on with '{name}' cannot be a file below a folder. Rename it."
        for name, path in paths
        if name != str(path)
        or not path.name
        or path.is_absolute()
        or ".." in path.parts
        or any(str(parent) in names for parent in path.parents)
    ]
    if faults:
        raise DataError(*faults)


def _client(uri: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise DataError(
            f"{uri}: reading s3:// needs boto3, which is not installed. Run "
            "pip install 'ytrainer[pipelines]', or name a local file."
        ) from error
    boto_logger = logging.getLogger("botocore")
    # At DEBUG it writes whole requests, and in their headers the session token.
    boto_logger.setLevel(max(logging.INFO, boto_logger.level))
    seconds = float(os.environ.get(SECONDS_VARIABLE) or 60)
    try:
        config = Config(
            connect_timeout=min(_CONNECT_SECONDS, seconds),
            read_timeout=seconds,
            retries={"mode": os.environ.get("AWS_RETRY_MODE") or "standard"},
            max_pool_connections=TRANSFERS * (TRANSFERS + 1),
            # Many S3-compatible stores refuse or ignore the newer checksums; Content-MD5 all know.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _client_lock:
            client = boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise _explained(uri, error) from error
    client.meta.events.register("before-parse.s3", _refuse_short_answer)
    return client


def _refuse_short_answer(
    operation_model: Any, response_dict: dict[str, Any], **further: Any
) -> None:
    """botocore parses an answer that ended early: nothing of a listing is then an empty bucket."""
    from botocore.exceptions import IncompleteReadError

    body, told = response_dict["body"], response_dict["headers"].get("content-length")
    if not isinstance(body, bytes) or told is None or operation_model.http["method"] == "HEAD":
        return
    if len(body) != int(told):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(told))


def _faults() -> tuple[type[Exception], ...]:
    """What boto3 and the connections below it raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        HTTPClientError,
        IncompleteReadError,
        SSLError,
    )

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        busy = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
        return busy or _code(error) in _PASSING
    if isinstance(error, BotoCoreError):
        broken = (ConnectionError, HTTPClientError, IncompleteReadError)
        return isinstance(error, broken) and not isinstance(error, SSLError)
    return True


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _explained(uri: str, error: Exception) -> DataError:
    """The error of boto3 as one that says what to do."""
    from botocore.exceptions import ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return DataError(
            f"{uri}: no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    code = _code(error) if isinstance(error, ClientError) else ""
    if code in _OVERTAKEN:
        return _Overtaken(f"{uri}: {_OVERTAKEN[code]}. Run it again.")
    remedy = f"{_said(error).rstrip('.')}. Check the address and AWS_ENDPOINT_URL"
    return DataError(f"{uri}: {_REMEDIES.get(code, remedy)}.")


def _said(error: Exception) -> str:
    """An error's text without the user and password that an address in it may carry."""
    return re.sub(r"//[^/@\s]+@", "//", str(error))


def _kept(head: Head) -> str:
    """The sha256 in an object's metadata, or nothing. Some stores capitalize the names."""
    named = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    return str(named.get(_SHA256, ""))


def _same(path: Path, head: Head) -> bool:
    """Whether a file certainly holds the object's bytes."""
    if not path.is_file() or path.stat().st_size != head["ContentLength"]:
        return False
    if kept := _kept(head):
        return kept == sha256_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return bool(head["ETag"].strip('"') == digest.hexdigest())


def _difference(uri: str, path: Path, head: Head) -> str:
    """What speaks against a downloaded file, or nothing."""
    size, kept = path.stat().st_size, _kept(head)
    if size != head["ContentLength"]:
        return f"{uri}: {size} bytes here, {head['ContentLength']} there. Run it again."
    if kept and kept != sha256_file(path):
        return f"{uri}: the bytes are not those that were stored (sha256). Store it again."
    return ""


@contextmanager
def _part_of(target: Path, etag: str) -> Iterator[IO[bytes]]:
    """What has arrived of `target` in the object's version `etag`, to be appended to.

    It stays for the next run where the block is left without it having become the target.
    """
    begin = f"{_PART_PREFIX}{sha256_json([target.name, etag])[:32]}"
    path = target.with_name(begin + _PART_SUFFIX)
    part = _claim(path)
    while part is None:  # another transfer has it: this one takes a file of its own
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=begin, suffix=_PART_SUFFIX)
        os.close(handle)
        part = _claim(Path(name))
    try:
        yield part
    finally:
        if Path(part.name) != path or os.fstat(part.fileno()).st_size == 0:
            Path(part.name).unlink(missing_ok=True)
        part.close()


@contextmanager
def _record(endpoint: str, uri: str) -> Iterator[IO[bytes] | None]:
    """The file that remembers an upload to `uri` in parts; None where another is under way.

    It is gone when the block has emptied it.
    """
    path = home() / "cache" / "s3" / "uploads" / f"{sha256_json([endpoint, uri])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _claim(path)
    try:
        yield record
    finally:
        if record:
            if os.fstat(record.fileno()).st_size == 0:
                path.unlink(missing_ok=True)
            record.close()


def _recorded(record: IO[bytes] | None) -> dict[str, Any]:
    """What a record says; nothing where it is new, or its writer was killed while writing."""
    if not record:
        return {}
    record.seek(0)
    with suppress(ValueError):
        return dict(json.load(record))
    return {}


def _forget(record: IO[bytes] | None) -> None:
    if record:
        record.truncate(0)


def _claim(path: Path) -> IO[bytes] | None:
    """Open a file to append to, for this transfer alone; None where another one has it."""
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:  # a file system without locks: two at once would not be noticed
            logger.debug("%s: cannot be locked: %s", path, error)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # whoever had it has renamed it meanwhile
