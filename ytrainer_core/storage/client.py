"""The client of boto3, set so that a dead line is noticed and a short answer is no answer."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from ytrainer_core.errors import DataError
from ytrainer_core.storage.faults import explained

SECONDS_VARIABLE = "YTRAINER_S3_SECONDS"
"""Environment variable: seconds without a byte after which a connection is dead; 60 if unset."""

TRANSFERS = 4
"""Files of a folder that are on their way at once, and parts of one file."""

_SECONDS = "60"
_CONNECT_SECONDS = 10.0
_client_lock = threading.Lock()  # boto3's default session makes one client at a time


def new_client(uri: str) -> Any:
    """A client with the settings and credentials that boto3 finds. uri: named in its DataError."""
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
    seconds = _patience_seconds()
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
        raise explained(uri, error) from error
    client.meta.events.register("before-parse.s3", _refuse_short_answer)
    return client


def _patience_seconds() -> float:
    asked = os.environ.get(SECONDS_VARIABLE) or _SECONDS
    try:
        return float(asked)
    except ValueError as error:
        raise DataError(
            f"{SECONDS_VARIABLE}='{asked}' is no number of seconds. Set one, e.g. 120, or unset it."
        ) from error


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
