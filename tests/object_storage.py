"""A real S3 server on this machine, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "no-such-file",
    "AWS_SHARED_CREDENTIALS_FILE": "no-such-file",
}
"""What a client needs besides AWS_ENDPOINT_URL, and nothing of the person who runs the tests."""


@contextmanager
def s3_server() -> Iterator[str]:
    """URL of a server; those of one process share their state."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def made_bucket(name: str) -> Iterator[Any]:
    """boto3's Bucket where the variables lead; it goes with all that it holds."""
    import boto3

    bucket = boto3.resource("s3").create_bucket(Bucket=name)
    yield bucket
    for begun in bucket.multipart_uploads.all():
        begun.abort()
    bucket.objects.all().delete()
    bucket.delete()


@contextmanager
def s3_bucket(name: str) -> Iterator[Any]:
    """A bucket on a server of its own; the variables are set as long as it is open."""
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        for variable, value in VARIABLES.items():
            patch.setenv(variable, value)
        patch.setenv("AWS_ENDPOINT_URL", url)
        with made_bucket(name) as bucket:
            yield bucket
