"""Objects become files: read on where a connection broke, checked, then renamed into place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO

from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_file, sha256_json
from ytrainer_core.progress import Progress
from ytrainer_core.storage.addresses import address, check_names, split, split_folder
from ytrainer_core.storage.faults import Overtaken, transfer_faults
from ytrainer_core.storage.patience import Patience, Stopped
from ytrainer_core.storage.store import Head, Store, sha256_of
from ytrainer_core.storage.unfinished import part_of, sweep

# What a broken connection can cost at most of what has arrived, in bytes.
_READ_BYTES = 256 << 10
# Times that an object is read from its beginning, because it changed or arrived damaged.
_STARTS = 3


def fetch(uri: str, folder: Path) -> Path:
    """Download s3://bucket/key into `folder` and return the file. It keeps the key's last name.

    The bytes are checked against the object's length, and against the sha256 that `put` left where
    there is one. A file that is already there with the object's own tag is not fetched again; a
    download that was cut off, also by a kill, goes on where it stopped.
    Raises DataError where boto3, the bucket, the key or the credentials are missing or wrong, and
    where the endpoint stays out of reach.
    """
    name = PurePosixPath(split(uri)[1]).name
    store = Store(uri)

    def place(head: Head) -> Path:
        return folder / sha256_json([uri, store.endpoint, head["ETag"]]) / name

    def there(path: Path, head: Head) -> bool:
        return path.is_file() and path.stat().st_size == head["ContentLength"]

    return _download(store, uri, place, there)


def download_folder(uri: str, folder: Path) -> list[Path]:
    """Download all objects below s3://bucket/prefix/ into `folder`; their paths, sorted.

    What is there already with the same sha256 is left alone (of objects that `put` did not store:
    with the same MD5, where that is their tag). Nothing is deleted. Raises DataError like `fetch`,
    where nothing lies below the prefix, and where a key cannot be a file's name.
    """
    split_folder(uri)
    root = uri.rstrip("/") + "/"
    store = Store(uri)
    found = {stored.uri.removeprefix(root): stored for stored in store.listing(root)}
    check_names(uri, found.keys())

    def one(name: str) -> Path:
        return _download(store, found[name].uri, lambda head: folder / name, _same)

    with Progress(f"download {uri}", len(found)) as progress:
        paths = store.together(one, sorted(found), progress.advance)
    sweep(folder)
    return paths


def _download(
    store: Store, uri: str, place: Callable[[Head], Path], there: Callable[[Path, Head], bool]
) -> Path:
    """Bring an object to where `place` wants it, unless it is `there`, and check its bytes."""
    fault = ""
    for _ in range(_STARTS):
        head = store.head(uri)
        target = place(head)
        if there(target, head):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with part_of(target, head["ETag"]) as part:
            path = Path(part.name)
            try:
                _fill(store, part, uri, head)
                fault = _difference(uri, path, head)
            except Overtaken as error:
                fault = str(error)
            if not fault:
                os.fsync(part.fileno())
                path.chmod(0o644)  # other users of a shared volume must read
                path.replace(target)
                return target
            path.unlink()
    raise DataError(fault)


def _fill(store: Store, part: IO[bytes], uri: str, head: Head) -> None:
    """Append to `part` what it lacks of the object, over as many connections as it takes."""
    patience = Patience(uri, store.stopped)
    have = part.seek(0, os.SEEK_END)
    while have < head["ContentLength"]:
        error = _append(store, part, uri, head["ETag"], have)
        before, have = have, part.seek(0, os.SEEK_END)
        if have > before:
            patience.failures = 0
        if have < head["ContentLength"]:
            patience.bear(error or ConnectionError("the answer ended early"))


def _append(store: Store, part: IO[bytes], uri: str, etag: str, have: int) -> Exception | None:
    """Read on from byte `have`. Returns the fault that ended it, if one did."""
    onward = {"Range": f"bytes={have}-"} if have else {}
    answer = store.ask(uri, store.client.get_object, IfMatch=etag, **address(uri), **onward)
    if have and answer["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.PARTIAL_CONTENT:
        part.truncate(0)  # the store knows no ranges and begins anew
    with closing(answer["Body"]) as body:
        while not store.stopped.is_set():
            try:
                block = body.read(_READ_BYTES)
            except transfer_faults() as error:
                return error
            if not block:
                return None
            part.write(block)
    raise Stopped


def _same(path: Path, head: Head) -> bool:
    """Whether a file certainly holds the object's bytes."""
    if not path.is_file() or path.stat().st_size != head["ContentLength"]:
        return False
    if kept := sha256_of(head):
        return kept == sha256_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return bool(head["ETag"].strip('"') == digest.hexdigest())


def _difference(uri: str, path: Path, head: Head) -> str:
    """What speaks against a downloaded file, or nothing."""
    size, kept = path.stat().st_size, sha256_of(head)
    if size != head["ContentLength"]:
        return f"{uri}: {size} bytes here, {head['ContentLength']} there. Run it again."
    if kept and kept != sha256_file(path):
        return f"{uri}: the bytes are not those that were stored (sha256). Store it again."
    return ""
