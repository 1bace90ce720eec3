"""A checkpoint counts only when it is whole; work is found again by what it is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ytrainer_core.errors import CheckpointError
from ytrainer_core.files import home
from ytrainer_core.training import checkpoints
from ytrainer_core.training.checkpoints import (
    MANIFEST_NAME,
    checkpoint_root,
    exclusive,
    newest_complete,
    seal,
    training_key,
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


def test_the_key_is_that_of_the_work_not_of_where_its_results_go() -> None:
    config = {"optim": {"learning_rate": 1e-4}, "output_dir": "a", "tracking": {"uri": "x"}}
    key = training_key(config, [1, 0], "data", "base")
    moved = {**config, "output_dir": "b", "tracking": {"uri": "y"}}
    assert training_key(moved, [1, 0], "data", "base") == key
    others = [
        training_key({**config, "optim": {"learning_rate": 2e-4}}, [1, 0], "data", "base"),
        training_key(config, [0, 1], "data", "base"),
        training_key(config, None, "data", "base"),
        training_key(config, [1, 0], "other", "base"),
        training_key(config, [1, 0], "data", "other"),
    ]
    assert len({key, *others}) == 6


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
