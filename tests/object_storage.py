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
def s3_bucket(name: str) -> Iterator[Any]:
    """boto3's Bucket on a server of its own; the variables are set as long as it is open."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in VARIABLES.items():
                patch.setenv(variable, value)
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            bucket = boto3.resource("s3").create_bucket(Bucket=name)
            yield bucket
            for begun in bucket.multipart_uploads.all():  # servers of a process share their state
                begun.abort()
            bucket.objects.all().delete()
            bucket.delete()
    finally:
        server.stop()
