"""Objects come and go whole, against a real HTTP server that speaks S3."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ytrainer_core import storage
from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_file


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    made = boto3.resource("s3").create_bucket(Bucket="corpora")
    yield made
    made.objects.all().delete()
    made.delete()


def test_a_file_comes_back_as_it_was_put(bucket: Any, tmp_path: Path) -> None:
    here = tmp_path / "rows.jsonl"
    here.write_bytes(bytes(range(256)) * 100)
    digest = storage.put(here, "s3://corpora/a/rows.jsonl")
    there = storage.fetch("s3://corpora/a/rows.jsonl", tmp_path / "cache")
    assert there.name == "rows.jsonl"
    assert digest == sha256_file(there) == sha256_file(here)
    assert [f for f in (tmp_path / "cache").rglob("*") if f.is_file()] == [there]


def test_an_unchanged_object_is_not_fetched_twice_and_a_changed_one_is(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Key="a.txt", Body=b"one\n")
    first = storage.fetch("s3://corpora/a.txt", tmp_path)
    first.write_bytes(b"own\n")  # the mark of the copy that is here
    assert storage.fetch("s3://corpora/a.txt", tmp_path).read_bytes() == b"own\n"
    bucket.put_object(Key="a.txt", Body=b"two\n")
    assert storage.fetch("s3://corpora/a.txt", tmp_path).read_bytes() == b"two\n"


def test_objects_of_the_same_name_do_not_take_each_others_place(
    bucket: Any, tmp_path: Path
) -> None:
    bucket.put_object(Key="a/rows.txt", Body=b"a")
    bucket.put_object(Key="b/rows.txt", Body=b"b")
    paths = [storage.fetch(f"s3://corpora/{key}/rows.txt", tmp_path) for key in "ab"]
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://corpora/missing.txt", "there is no such bucket or object"),
        ("s3://nowhere/a.txt", "there is no such bucket"),
        ("s3://corpora", "names no object"),
        ("s3://corpora/folder/", "names no object"),
    ],
)
def test_an_object_that_is_not_there_is_named(
    bucket: Any, tmp_path: Path, uri: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        storage.fetch(uri, tmp_path)
    assert str(caught.value).startswith(f"{uri}: ")
    assert said in str(caught.value)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_bytes_that_are_not_those_that_were_stored_are_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a.txt", Body=b"one", Metadata={"sha256": "0" * 64})
    with pytest.raises(DataError, match="not those that were stored"):
        storage.fetch("s3://corpora/a.txt", tmp_path)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


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

    def refuse() -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")

    with pytest.raises(DataError, match=r"^s3://b/k: ") as caught:
        storage._ask("s3://b/k", refuse)
    assert said in str(caught.value)


def test_without_boto3_the_way_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DataError, match=r"pip install 'ytrainer\[pipelines\]'"):
        storage.fetch("s3://corpora/a.txt", tmp_path)


def test_a_corpus_is_read_from_a_bucket_and_its_rows_say_so(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="rows.txt", Body=b"one\ntwo\n")
    config = DataConfig(train="s3://corpora/rows.txt", validation_fraction=0)  # type: ignore[arg-type]
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=0)
    assert list(corpus.train["origin"]) == ["s3://corpora/rows.txt:1", "s3://corpora/rows.txt:2"]
    assert corpus.manifest["sources"][0]["path"] == "s3://corpora/rows.txt"
