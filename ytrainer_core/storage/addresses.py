"""Addresses in object storage: s3://bucket/key, and which keys can be files below a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from ytrainer_core.errors import DataError

SCHEME = "s3://"


def is_remote(name: str) -> bool:
    """Whether a name of a file or folder is an address in object storage."""
    return name.startswith(SCHEME)


def split_folder(uri: str) -> tuple[str, str]:
    """(bucket, prefix) of s3://bucket or s3://bucket/prefix. Raises DataError for another one."""
    bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not bucket:
        raise DataError(f"{uri}: names no bucket. Write it as s3://bucket or s3://bucket/prefix/.")
    return bucket, prefix


def split(uri: str) -> tuple[str, str]:
    """(bucket, key) of s3://bucket/key. Raises DataError where it names no object."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not bucket or key.rpartition("/")[2] in ("", ".", ".."):
        raise DataError(f"{uri}: names no object. Write it as s3://bucket/key.")
    return bucket, key


def address(uri: str) -> dict[str, str]:
    """An object's address as boto3 wants it in a request."""
    return dict(zip(("Bucket", "Key"), split(uri), strict=True))


def check_names(uri: str, names: Collection[str]) -> None:
    """Refuse keys that would lie outside of the folder, or in each other's place.

    names: the keys below `uri`, without it. Raises DataError naming every one of them.
    """
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
