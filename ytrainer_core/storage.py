"""The only import of boto3: one object in, one object out, checked and whole or not at all.

Any S3-compatible endpoint serves (AWS_ENDPOINT_URL); credentials come from where boto3 finds them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_file, sha256_json

SCHEME = "s3://"

# Name under which `put` keeps the sha256 of the bytes in the object's metadata.
_SHA256 = "sha256"

_REMEDIES = {
    "NoSuchBucket": "there is no such bucket. Correct the name, or create the bucket",
    "NoSuchKey": "there is no such object. Correct the key",
    "404": "there is no such bucket or object. Correct the address",
    "403": "access is denied. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy",
    "AccessDenied": "access is denied. Check the bucket's policy for this user",
    "InvalidAccessKeyId": "the access key is unknown. Check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret is wrong. Check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session has ended. Sign in again",
}


def fetch(uri: str, folder: Path) -> Path:
    """Download s3://bucket/key into `folder` and return the file. It keeps the key's last name.

    The bytes are checked against the object's length, and against the sha256 that `put` left where
    there is one. A file that is already there with the object's own tag is not fetched again.
    Raises DataError where boto3, the bucket, the key or the credentials are missing or wrong.
    """
    bucket, key = _split(uri)
    client = _client(uri)
    head = _ask(uri, client.head_object, Bucket=bucket, Key=key)
    version = sha256_json([uri, os.environ.get("AWS_ENDPOINT_URL", ""), head["ETag"]])
    target = folder / version / Path(key).name
    if target.is_file() and target.stat().st_size == head["ContentLength"]:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    scratch = Path(name)
    try:
        _ask(uri, client.download_file, bucket, key, name)
        _check(uri, scratch, head)
        scratch.chmod(0o644)  # mkstemp gives 0600; other users of a shared volume must read
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def put(path: Path, uri: str) -> str:
    """Upload one file to s3://bucket/key and return its sha256 (hex), kept with the object.

    The object appears only when all bytes have arrived. Raises DataError like `fetch`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, so it cannot be stored at {uri}. Correct the path.")
    bucket, key = _split(uri)
    client = _client(uri)
    digest = sha256_file(path)
    extra = {"Metadata": {_SHA256: digest}}
    _ask(uri, client.upload_file, str(path), bucket, key, ExtraArgs=extra)
    head = _ask(uri, client.head_object, Bucket=bucket, Key=key)
    _check(uri, path, head)
    return digest


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not bucket or not key or key.endswith("/"):
        raise DataError(f"{uri}: names no object. Write it as s3://bucket/key.")
    return bucket, key


def _client(uri: str) -> Any:
    try:
        import boto3
    except ImportError as error:
        raise DataError(
            f"{uri}: reading s3:// needs boto3, which is not installed. Run "
            "pip install 'ytrainer[pipelines]', or name a local file."
        ) from error
    return boto3.client("s3")


def _ask(uri: str, call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call boto3 and turn what it raises into an error that says what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        return call(*args, **kwargs)
    except NoCredentialsError as error:
        raise DataError(
            f"{uri}: no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        remedy = _REMEDIES.get(code, f"{error}. Check the address and AWS_ENDPOINT_URL")
        raise DataError(f"{uri}: {remedy}.") from error
    except (BotoCoreError, Boto3Error) as error:
        raise DataError(f"{uri}: {error}. Check the address and AWS_ENDPOINT_URL.") from error


def _check(uri: str, path: Path, head: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != head["ContentLength"]:
        raise DataError(
            f"{uri}: {size} bytes here, {head['ContentLength']} there: the transfer was cut off, "
            "or the object changed meanwhile. Run it again."
        )
    kept = head.get("Metadata", {}).get(_SHA256)
    if kept and kept != sha256_file(path):
        raise DataError(
            f"{uri}: the bytes are not those that were stored (sha256). Store it again."
        )
