"""A bucket of a real S3 server, a proxy before it that breaks connections, and small parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import moto.s3.models
import pytest
from faulty_proxy import FaultyProxy, Plan, no_faults
from object_storage import VARIABLES, made_bucket, s3_server
from storage_examples import PART, SECRET

from ytrainer_core import storage
from ytrainer_core.storage import patience, upload


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its variables are the test's to change: all are taken back by its own monkeypatch."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with made_bucket("corpora") as made:
        yield made


@pytest.fixture
def through(
    bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FaultyProxy]]:
    """through(plan) -> a proxy that storage now talks to; a second without a byte is a stall."""
    with ExitStack() as stack:

        def start(plan: Plan = no_faults) -> FaultyProxy:
            proxy = stack.enter_context(FaultyProxy(endpoint, plan))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            monkeypatch.setenv(storage.SECONDS_VARIABLE, "1")
            return proxy

        yield start


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", PART)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", PART)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of botocore's, and no waiting between those of storage."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.0)
