"""A wrong address, right or setting is an error that says what to do, and tells no secret."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from faulty_proxy import Fault, FaultyProxy, first
from storage_examples import SECRET, files_below

from ytrainer_core import storage
from ytrainer_core.errors import DataError
from ytrainer_core.storage import faults, patience, store


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://corpora/missing.txt", "there is no such bucket or object"),
        ("s3://nowhere/a.txt", "there is no such bucket"),
        ("s3://corpora", "names no object"),
        ("s3://corpora/folder/", "names no object"),
        ("s3://corpora/folder/..", "names no object"),
    ],
)
def test_an_object_that_is_not_there_is_named(
    bucket: Any, tmp_path: Path, uri: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        storage.fetch(uri, tmp_path)
    assert str(caught.value).startswith(f"{uri}: ")
    assert said in str(caught.value)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("uri", ["s3://nowhere", "s3://nowhere/prefix/"])
def test_a_bucket_that_is_not_there_is_named(bucket: Any, tmp_path: Path, uri: str) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for call in (
        lambda: storage.list_objects(uri),
        lambda: storage.download_folder(uri, tmp_path),
        lambda: storage.upload_folder(tmp_path, uri),
    ):
        with pytest.raises(DataError, match=rf"^{uri.rstrip('/')}/?: there is no such bucket"):
            call()


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "corpora/a"])
def test_an_address_without_a_bucket_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match=rf"^{uri}: names no bucket"):
        storage.list_objects(uri)


def test_bytes_that_are_not_those_that_were_stored_are_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a.txt", Body=b"one", Metadata={"sha256": "0" * 64})
    with pytest.raises(DataError, match="not those that were stored"):
        storage.fetch("s3://corpora/a.txt", tmp_path)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["sha256", "Sha256"])
def test_metadata_names_are_read_however_the_store_spells_them(name: str) -> None:
    assert store.sha256_of({"Metadata": {name: "ab"}}) == "ab"


def test_missing_credentials_say_which_variables_to_set(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID"):
        storage.fetch("s3://corpora/a.txt", tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("403", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "the access key is unknown"),
        ("SignatureDoesNotMatch", "the secret is wrong"),
        ("SlowDown", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_refusal_says_what_to_check(code: str, said: str) -> None:
    from botocore.exceptions import ClientError

    refusal = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")
    error = faults.explained("s3://b/k", refusal)
    assert str(error).startswith("s3://b/k: ")
    assert said in str(error)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ENDPOINT_URL", "not an address"), ("AWS_RETRY_MODE", "never")],
)
def test_a_wrong_setting_of_the_environment_is_named(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(DataError, match=value):
        storage.fetch("s3://corpora/a", tmp_path)


def test_neither_logs_nor_messages_hold_the_credentials(
    bucket: Any,
    through: Callable[..., FaultyProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = "FwoGZXIvYXdzE-this-is-the-session-token"
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    caplog.set_level(logging.DEBUG)
    through(first("PUT", Fault("reset_before"), Fault("slow_down"), Fault("denied")))
    (tmp_path / "a").write_bytes(b"a")
    messages = []
    for uri in ("s3://corpora/a", "s3://corpora/b", "s3://corpora/c"):
        try:
            storage.put(tmp_path / "a", uri)
        except DataError as error:
            messages.append(str(error))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(patience, "_TRIES", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        storage.fetch("s3://corpora/a", tmp_path)
    said = "\n".join([caplog.text, *messages, str(caught.value)])
    assert len(messages) == 1
    assert "127.0.0.1:9" in said
    assert "trying again" in caplog.text
    assert SECRET not in said
    assert token not in said


def test_without_boto3_the_way_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DataError, match=r"pip install 'ytrainer\[pipelines\]'"):
        storage.fetch("s3://corpora/a.txt", tmp_path)


def test_a_patience_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.SECONDS_VARIABLE, "a minute")
    with pytest.raises(DataError, match="YTRAINER_S3_SECONDS='a minute' is no number of seconds"):
        storage.list_objects("s3://corpora/")
