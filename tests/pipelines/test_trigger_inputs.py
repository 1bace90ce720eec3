"""What the trigger compares: the same inputs give the same digests, others tell what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_storage import s3_bucket

from pipelines.configs import RetrainConfig
from pipelines.inputs import Inputs, inputs_of
from ytrainer_core.config import narrow
from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.files import home

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, answer in (("a", "1"), ("b", "2")):
        row = {"question": f"what is {name}?", "answer": answer}
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n")
    return folder


@pytest.fixture
def bucket() -> Iterator[Any]:
    with s3_bucket("corpora") as made:
        yield made


def inputs(source: object, /, remote: bool = False, **sections: dict[str, Any]) -> Inputs:
    tree: dict[str, Any] = {
        "model": {"name_or_path": "some/base", "revision": COMMIT},
        "data": {"train": str(source)},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return inputs_of(narrow(RetrainConfig, tree), remote=remote)


def changed(before: Inputs, after: Inputs) -> list[str]:
    return after.changes(before.tags())


# --- data ----------------------------------------------------------------------------------------


def test_the_same_rows_in_another_checkout_are_the_same_data(rows: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(rows, elsewhere)
    assert inputs(rows).digests["data"] == inputs(elsewhere).digests["data"]


def test_a_changed_a_new_and_a_missing_file_are_named(rows: Path) -> None:
    before = inputs(rows)
    (rows / "a.jsonl").write_text('{"question": "what is a?", "answer": "one"}\n')
    (rows / "c.jsonl").write_text('{"question": "what is c?", "answer": "3"}\n')
    (rows / "b.jsonl").unlink()
    assert changed(before, inputs(rows)) == [
        f"data: new train/{rows}/c.jsonl; gone train/{rows}/b.jsonl; changed train/{rows}/a.jsonl"
    ]


def test_rows_that_move_from_training_to_validation_are_a_change(rows: Path) -> None:
    a, b = rows / "a.jsonl", rows / "b.jsonl"
    one = inputs(f"{a},{b}")
    other = inputs(a, data={"train": str(a), "validation": str(b)})
    assert one.digests["data"] != other.digests["data"]


def test_only_five_of_many_files_are_named(rows: Path) -> None:
    before = inputs(rows)
    for number in range(8):
        (rows / f"n{number}.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (line,) = changed(before, inputs(rows))
    assert line.endswith(f"train/{rows}/n4.jsonl and 3 more")


def test_more_files_than_a_tag_can_name_are_still_compared(rows: Path) -> None:
    for number in range(300):
        (rows / f"n{number}.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    before = inputs(rows)
    assert all(len(text) <= 5000 for text in before.tags().values())
    assert not changed(before, inputs(rows))
    (rows / "n7.jsonl").write_text('{"question": "q", "answer": "b"}\n')
    assert changed(before, inputs(rows)) == ["data: the files are not those of that version"]


def test_objects_in_storage_are_compared_without_being_downloaded(bucket: Any) -> None:
    bucket.put_object(Key="v1/rows.jsonl", Body=b'{"text": "one"}\n')
    bucket.put_object(Key="v1/notes.md", Body=b"one")
    before = inputs("s3://corpora/v1/@0.5")
    bucket.put_object(Key="v1/notes.md", Body=b"two")  # no corpus file
    assert not changed(before, inputs("s3://corpora/v1/@0.5"))
    bucket.put_object(Key="v1/rows.jsonl", Body=b'{"text": "two"}\n')
    after = inputs("s3://corpora/v1/@0.5")
    assert changed(before, after) == ["data: changed train/s3://corpora/v1/rows.jsonl"]
    assert not (home() / "cache").exists()


def test_a_local_data_set_behind_hub_is_compared_by_its_files(rows: Path) -> None:
    before = inputs(f"hub:{rows}:train")
    assert not changed(before, inputs(f"hub:{rows}:train"))
    (rows / "b.jsonl").unlink()
    assert [line.split(":")[0] for line in changed(before, inputs(f"hub:{rows}:train"))] == ["data"]


def test_every_missing_source_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        inputs(tmp_path / "x.jsonl", data={"train": "x.jsonl", "general": "y.txt"})
    assert len(caught.value.faults) == 2


# --- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {"tracking": {"uri": "http://elsewhere", "experiment": "other"}},
        {"registry": {"tags": ["ci_job=17"]}},
    ],
)
def test_where_it_is_told_and_how_it_is_labelled_changes_nothing(
    rows: Path, sections: dict[str, Any]
) -> None:
    assert not changed(inputs(rows), inputs(rows, **sections))


def test_changed_knobs_are_named_with_both_values(rows: Path) -> None:
    before = inputs(rows, optim={"learning_rate": 1e-4}, lora={"rank": 8})
    after = inputs(rows, optim={"learning_rate": 2e-5}, train={"max_steps": 3})
    assert changed(before, after) == [
        "config: optim.learning_rate 0.0001 -> 2e-05, lora.rank 8 -> default, "
        "train.max_steps default -> 3"
    ]


def test_a_knob_set_to_its_default_is_no_change(rows: Path) -> None:
    assert not changed(inputs(rows), inputs(rows, data={"train": str(rows), "earlier_ratio": 0.2}))


# --- base and image ------------------------------------------------------------------------------


def test_a_base_folder_is_compared_by_its_weights(
    rows: Path, base_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_folder, base)
    before = inputs(rows, model={"name_or_path": str(base), "revision": ""})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    after = inputs(rows, model={"name_or_path": str(base), "revision": ""})
    (line,) = changed(before, after)
    assert line.startswith(f"base: {base} (") and " -> " in line


def test_a_pinned_model_of_the_hub_is_told_by_its_commit_without_a_question(rows: Path) -> None:
    other = COMMIT[::-1]
    (line,) = [
        line
        for line in changed(inputs(rows), inputs(rows, model={"revision": other}))
        if line.startswith("base")
    ]
    assert line == f"base: some/base@{COMMIT} -> some/base@{other}"


def test_a_hub_that_does_not_answer_is_an_error_that_says_how_to_do_without(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"pin model\.revision"):
        inputs(rows, model={"revision": "main"})


def test_a_base_on_the_clusters_volume_is_compared_by_name_and_refused_for_a_run_here(
    rows: Path,
) -> None:
    there = {"name_or_path": "/models/on/the/cluster", "revision": ""}
    assert inputs(rows, remote=True, model=there).base == "/models/on/the/cluster"
    with pytest.raises(ConfigError, match="no such model folder"):
        inputs(rows, model=there)


def test_the_image_and_the_package_are_told(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inputs(rows)
    monkeypatch.setenv("YTRAINER_IMAGE_DIGEST", "sha256:cc")
    (line,) = changed(before, inputs(rows))
    assert line.startswith("image: ytrainer:") and "-> sha256:cc, ytrainer" in line
