"""Objects are deleted by their addresses, and only those."""

from __future__ import annotations

from typing import Any

import pytest

from ytrainer_core.errors import DataError
from ytrainer_core.storage.delete import delete_objects


def test_what_is_named_goes_and_the_rest_stays(bucket: Any) -> None:
    for name in ("a", "folder/a", "folder/b"):
        bucket.put_object(Key=name, Body=b"1")
    delete_objects(["s3://corpora/folder/a", "s3://corpora/never/there"])
    assert [item.key for item in bucket.objects.all()] == ["a", "folder/b"]


def test_nothing_to_delete_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    delete_objects([])


def test_a_bucket_that_is_not_there_is_named(bucket: Any) -> None:
    with pytest.raises(DataError, match="s3://elsewhere/a: there is no such bucket"):
        delete_objects(["s3://elsewhere/a"])
