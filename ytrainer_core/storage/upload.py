"""Files become objects: large ones in parts, which the next process takes up after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_file
from ytrainer_core.progress import Progress
from ytrainer_core.storage.addresses import address, split, split_folder
from ytrainer_core.storage.faults import Overtaken
from ytrainer_core.storage.store import SHA256, Store, sha256_of
from ytrainer_core.storage.unfinished import UNFINISHED, forget, record_of, recorded

PART_BYTES = 8 << 20
"""Larger files are uploaded in parts of this size."""

# S3 takes no more parts of one object.
_MOST_PARTS = 10_000

logger = logging.getLogger(__name__)


def put(path: Path, uri: str) -> str:
    """Upload one file to s3://bucket/key and return its sha256 (hex), kept with the object.

    The object appears only when all bytes have arrived. Files above PART_BYTES go in parts, which
    the next `put` of the same bytes takes up where this one is killed, and which it aborts if the
    bytes are others. (Where the answer to the very first request is lost, an empty upload stays in
    the bucket, unseen, until its lifecycle rules clear it.) Raises DataError like `fetch`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, so it cannot be stored at {uri}. Correct the path.")
    split(uri)
    return _upload(Store(uri), path, uri)


def upload_folder(folder: Path, uri: str) -> dict[str, str]:
    """Upload all files below `folder` to s3://bucket/prefix/: name below the folder -> sha256.

    What is there already with the same sha256 is left alone. Nothing is deleted. Raises DataError
    like `fetch`, and where there is no file.
    """
    split_folder(uri)
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and not file.match(UNFINISHED)
    )
    if not names:
        raise DataError(
            f"{folder}: no such folder, or no file in it, so nothing can be stored at {uri}. "
            "Correct the path."
        )
    root = uri.rstrip("/")
    store = Store(uri)
    sizes = {stored.uri: stored.size for stored in store.listing(f"{root}/")}

    def one(name: str) -> str:
        path, target = folder / name, f"{root}/{name}"
        if sizes.get(target) == path.stat().st_size:
            digest = sha256_file(path)
            if sha256_of(store.head(target)) == digest:
                return digest
        return _upload(store, path, target)

    with Progress(f"upload {uri}", len(names)) as progress:
        digests = store.together(one, names, progress.advance)
    return dict(zip(names, digests, strict=True))


def _upload(store: Store, path: Path, uri: str) -> str:
    """Store a file with its sha256, and look that it is what can be seen there."""
    state = path.stat()
    if state.st_size <= PART_BYTES:
        data = path.read_bytes()
        size, digest = len(data), hashlib.sha256(data).hexdigest()
        put_object, kept = store.client.put_object, {SHA256: digest}
        store.ask(uri, put_object, data, Metadata=kept, **address(uri))
    else:
        size, digest = state.st_size, sha256_file(path)
        _upload_parts(store, path, uri, digest, state)
    head = store.head(uri)
    if head["ContentLength"] != size or sha256_of(head) != digest:
        raise DataError(
            f"{uri}: what can be seen there is not {path}: it was stored from elsewhere "
            "meanwhile, or the store keeps no metadata. Run it again."
        )
    return digest


def _upload_parts(store: Store, path: Path, uri: str, digest: str, state: os.stat_result) -> None:
    part_bytes = max(PART_BYTES, -(-state.st_size // _MOST_PARTS))
    with record_of(store.endpoint, uri) as record:
        upload, there = _begin(store, uri, digest, part_bytes, record)
        named = {"UploadId": upload, **address(uri)}

        def send(number: int) -> dict[str, Any]:
            with path.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            tag = there.get(number, "")
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if tag.strip('"') != md5:
                call = store.client.upload_part
                tag = store.ask(uri, call, data, PartNumber=number, **named)["ETag"]
            return {"PartNumber": number, "ETag": tag}

        numbers = range(1, -(-state.st_size // part_bytes) + 1)
        parts = store.together(send, numbers, lambda: None)
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
            store.ask(uri, store.client.abort_multipart_upload, **named)
            forget(record)
            raise DataError(
                f"{path}: changed while it was stored at {uri}. Store it when it is finished."
            )
        with suppress(Overtaken):  # done, but the answer was lost: _upload() looks at it
            complete = store.client.complete_multipart_upload
            store.ask(uri, complete, MultipartUpload={"Parts": parts}, **named)
        forget(record)


def _begin(
    store: Store, uri: str, digest: str, part_bytes: int, record: IO[bytes] | None
) -> tuple[str, dict[int, str]]:
    """(upload id, part number -> tag of what is there), from the record of a cut-off upload."""
    plan = {"sha256": digest, "part_bytes": part_bytes}
    earlier = recorded(record)
    if earlier:
        named = {"UploadId": earlier.pop("upload"), **address(uri)}
        try:
            if earlier == plan:
                return named["UploadId"], _parts(store, uri, named)
            store.ask(uri, store.client.abort_multipart_upload, **named)
        except DataError as error:
            logger.warning("%s: an earlier upload is left alone: %s", uri, error)
    create = store.client.create_multipart_upload
    upload = store.ask(uri, create, Metadata={SHA256: digest}, **address(uri))["UploadId"]
    if record:
        forget(record)
        record.write(json.dumps(plan | {"upload": upload}).encode())
        record.flush()
    return upload, {}


def _parts(store: Store, uri: str, named: dict[str, Any]) -> dict[int, str]:
    pages = store.client.get_paginator("list_parts")
    found = store.ask(uri, lambda: pages.paginate(**named).build_full_result())
    return {part["PartNumber"]: part["ETag"] for part in found.get("Parts", [])}
