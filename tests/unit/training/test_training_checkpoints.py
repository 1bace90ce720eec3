"""A checkpoint counts only when it is whole; work is found again by what it is."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from ytrainer_core.errors import CheckpointError
from ytrainer_core.files import home
from ytrainer_core.training import checkpoints
from ytrainer_core.training.checkpoints import (
    MANIFEST_NAME,
    Work,
    checkpoint_root,
    deliver,
    describe,
    exclusive,
    finished,
    forget_deleted,
    mark_finished,
    newest_complete,
    seal,
    unfinished_relative,
)


def make(root: Path, step: int, *, sealed: bool = True) -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sub" / "rng").write_bytes(b"state")
    if sealed:
        seal(folder)
    return folder


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None and newest_complete(tmp_path / "none") is None


def test_the_newest_is_that_of_the_greatest_step_not_of_the_greatest_name(tmp_path: Path) -> None:
    make(tmp_path, 9)
    make(tmp_path, 10)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_sealing_twice_is_sealing_once(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    seal(folder)
    assert newest_complete(tmp_path) == folder


@pytest.mark.parametrize(
    "fault", ["unsealed", "one byte", "missing", "nested", "half a manifest", "other json"]
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_and_named(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = make(tmp_path, 2), make(tmp_path, 4, sealed=fault != "unsealed")
    if fault == "one byte":
        (newest / "model.safetensors").write_bytes(b"Weights")
    elif fault == "missing":
        (newest / "model.safetensors").unlink()
    elif fault == "nested":
        (newest / "sub" / "rng").write_bytes(b"")
    elif fault == "half a manifest":
        text = (newest / MANIFEST_NAME).read_text()
        (newest / MANIFEST_NAME).write_text(text[:20])
    elif fault == "other json":
        (newest / MANIFEST_NAME).write_text("[]")
    with caplog.at_level(logging.WARNING):
        assert newest_complete(tmp_path) == older
    assert f"{newest}: " in caplog.text


CONFIG = {
    "optim": {"learning_rate": 1e-4},
    "train": {"resume": "auto", "max_steps": 5},
    "output_dir": "a",
    "tracking": {"uri": "x"},
}
WORK = Work.of("sft", CONFIG, [1, 0], "data", "base")


def test_the_key_is_that_of_the_work_not_of_where_its_results_go() -> None:
    moved = CONFIG | {
        "output_dir": "b",
        "tracking": {"uri": "y"},
        "train": {"resume": "never", "max_steps": 5},
    }
    assert Work.of("sft", moved, [1, 0], "data", "base").key == WORK.key
    faster = CONFIG | {"optim": {"learning_rate": 2e-4}}
    others = [
        Work.of("sft", faster, [1, 0], "data", "base"),
        Work.of("sft", CONFIG, [0, 1], "data", "base"),
        Work.of("sft", CONFIG, None, "data", "base"),
        Work.of("sft", CONFIG, [1, 0], "other", "base"),
        Work.of("sft", CONFIG, [1, 0], "data", "other"),
        Work.of("cpt", CONFIG, [1, 0], "data", "base"),
    ]
    assert len({WORK.key, *(work.key for work in others)}) == 7


def cut_off(work: Work) -> Path:
    """A training that left a checkpoint and no model."""
    root = checkpoint_root(work.key)
    make(root, 2)
    describe(root, work)
    return root


def test_an_unfinished_training_that_differs_is_found_with_all_that_differs() -> None:
    assert unfinished_relative(WORK) is None
    root = cut_off(WORK)
    assert unfinished_relative(WORK) is None  # the same work is no other
    changed = CONFIG | {"optim": {"learning_rate": 2e-4, "beta": 1}}
    assert unfinished_relative(Work.of("sft", changed, [0, 1], "data", "base")) == (
        root,
        [
            "optim.beta: None -> 1",
            "optim.learning_rate: 0.0001 -> 0.0002",
            f"the order of the rows: sha256 {WORK.order_sha256[:12]} -> "
            f"{Work.of('sft', changed, [0, 1], 'data', 'base').order_sha256[:12]}",
        ],
    )
    other_rows = Work.of("sft", CONFIG, [1, 0], "rows", "base")
    assert unfinished_relative(other_rows) == (
        root,
        ["the corpus' rows: sha256 data -> rows"],
    )


@pytest.mark.parametrize(
    "other",
    [
        Work.of("cpt", CONFIG, [1, 0], "data", "base"),
        Work.of("sft", CONFIG, [1, 0], "rows", "other base"),
    ],
    ids=["another stage", "other rows on another base"],
)
def test_a_training_of_something_else_is_no_relative(other: Work) -> None:
    cut_off(WORK)
    assert unfinished_relative(other) is None


def finish(root: Path) -> None:
    (root / "model").mkdir()
    (root / "model" / "adapter.safetensors").write_bytes(b"weights")
    mark_finished(root, {"steps": 4})


def test_a_finished_training_keeps_its_model_and_figures_and_no_checkpoint() -> None:
    root = cut_off(WORK)
    (root / "initial").mkdir()
    finish(root)
    assert sorted(path.name for path in root.iterdir()) == ["finished.json", "model", "work.json"]
    assert finished(root)["result"] == {"steps": 4}
    assert unfinished_relative(Work.of("sft", CONFIG, None, "data", "base")) is None


def test_a_finished_model_that_was_damaged_counts_as_not_finished() -> None:
    root = cut_off(WORK)
    finish(root)
    (root / "model" / "adapter.safetensors").write_bytes(b"Weights")
    assert finished(root) is None


def test_a_finished_model_takes_no_second_space_and_goes_with_what_was_delivered(
    tmp_path: Path,
) -> None:
    root = cut_off(WORK)
    finish(root)
    forget_deleted()
    assert root.exists()  # it was not delivered yet
    deliver(root, tmp_path / "out" / "model", tmp_path / "out" / "epochs")
    delivered = tmp_path / "out" / "model" / "adapter.safetensors"
    assert delivered.samefile(root / "model" / "adapter.safetensors")
    forget_deleted()
    assert finished(root)
    delivered.unlink()
    with exclusive(root):  # another process is about to deliver it again
        forget_deleted()
    assert finished(root)
    forget_deleted()
    assert not root.exists()


def test_a_finished_model_that_was_delivered_to_another_disk_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy there has no link here, so whether that was deleted cannot be told."""

    def refuse(source: str, to: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    root = cut_off(WORK)
    finish(root)
    monkeypatch.setattr(checkpoints.os, "link", refuse)
    deliver(root, tmp_path / "out" / "model", tmp_path / "out" / "epochs")
    forget_deleted()
    assert finished(root)


def test_checkpoints_lie_below_home() -> None:
    assert checkpoint_root("abc") == home() / "checkpoints" / "abc"


def test_two_trainings_of_one_piece_of_work_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_LOCK_SECONDS", 0.0)
    root = tmp_path / "deep" / "key"
    with exclusive(root) as folder:
        assert folder == root and root.is_dir()
        with pytest.raises(CheckpointError, match="another process"), exclusive(root):
            pass
        with exclusive(tmp_path / "deep" / "other"):
            pass
    with exclusive(root):
        pass
