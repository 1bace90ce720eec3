"""What boto3 raises: whether it passes, and what a person can do about it if it does not."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from ytrainer_core.errors import DataError

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


class Overtaken(DataError):
    """Somebody else changed or removed what this transfer was at work on."""


def transfer_faults() -> tuple[type[Exception], ...]:
    """What boto3 and the connections below it raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


def passes(error: Exception) -> bool:
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


def explained(uri: str, error: Exception) -> DataError:
    """The error of boto3 as one that says what to do."""
    from botocore.exceptions import ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return DataError(
            f"{uri}: no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    code = _code(error) if isinstance(error, ClientError) else ""
    if code in _OVERTAKEN:
        return Overtaken(f"{uri}: {_OVERTAKEN[code]}. Run it again.")
    remedy = f"{said(error).rstrip('.')}. Check the address and AWS_ENDPOINT_URL"
    return DataError(f"{uri}: {_REMEDIES.get(code, remedy)}.")


def said(error: Exception) -> str:
    """An error's text without the user and password that an address in it may carry."""
    return re.sub(r"//[^/@\s]+@", "//", str(error))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
