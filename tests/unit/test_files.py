"""A name stands for a complete file or folder, or for nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import files
from ytrainer_core.files import (
    atomic_folder,
    home,
    sha256_file,
    sha256_folder,
    sha256_json,
    write_json,
    write_text,
)

SHA_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
SHA_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def cut_power(*args: Any) -> None:
    raise OSError("power cut")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_home_is_the_variable_else_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YTRAINER_HOME", "elsewhere")
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("YTRAINER_HOME")
    assert home() == tmp_path / "ytrainer-runs"


def test_write_text_makes_the_folders_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    write_text(path, "naïve 中")
    assert path.read_bytes() == "naïve 中".encode()
    assert names(path.parent) == ["b.txt"]


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_text_that_is_cut_off_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, call, cut_power)
    with pytest.raises(OSError, match="power cut"):
        write_text(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_name_appears_only_after_the_bytes_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for call in ("fsync", "replace"):
        original = getattr(os, call)
        monkeypatch.setattr(
            os, call, lambda *a, call=call, original=original: (calls.append(call), original(*a))
        )
    write_text(tmp_path / "a", "x")
    assert calls == ["fsync", "replace"]


def test_equal_json_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "ä"})
    write_json(tmp_path / "b", {"a": "ä", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text(encoding="utf-8") == '{\n  "a": "ä",\n  "b": 1\n}\n'


def test_atomic_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as scratch:
        (scratch / "x").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"] and names(tmp_path / "deep" / "out") == ["x"]


def test_atomic_folder_replaces_an_old_folder_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with atomic_folder(out) as scratch:
        (scratch / "new").write_text("2")
        assert names(out) == ["old"]
    assert names(out) == ["new"] and names(tmp_path) == ["out"]


def test_atomic_folder_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with atomic_folder(tmp_path / "out") as scratch:
        (scratch / "new").write_text("2")
    assert names(tmp_path / "out") == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left_and_the_old_folder_stands(
    error: type[BaseException], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(error), atomic_folder(out) as scratch:
        (scratch / "half").write_text("2")
        raise error
    assert names(tmp_path) == ["out"] and names(out) == ["old"]


def test_after_an_error_without_an_old_folder_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_folder(tmp_path / "out"):
        raise ValueError
    assert names(tmp_path) == []


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    replace = os.replace

    def fail_on_the_new_folder(source: Path, target: Path) -> None:
        if target == out and (Path(source) / "new").exists():
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_new_folder)
    with pytest.raises(OSError, match="no space"), atomic_folder(out) as scratch:
        (scratch / "new").write_text("2")
    assert names(tmp_path) == ["out"] and names(out) == ["old"]


def test_every_file_of_an_atomic_folder_is_on_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "_fsync", lambda path: synced.append(path.name))
    with atomic_folder(tmp_path / "out") as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "x").write_text("1")
        (scratch / "y").write_text("1")
    assert sorted(synced[:2]) == ["x", "y"] and synced[2:] == [tmp_path.name]


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "abc") == SHA_OF_ABC
    assert sha256_file(tmp_path / "empty") == SHA_OF_NOTHING


def test_sha256_of_a_file_longer_than_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 2)
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == SHA_OF_ABC


def test_sha256_folder_lists_every_file_below_in_order(tmp_path: Path) -> None:
    (tmp_path / "z").write_bytes(b"abc")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "empty-folder").mkdir()
    assert list(sha256_folder(tmp_path).items()) == [
        ("a/b/c", SHA_OF_NOTHING),
        ("z", SHA_OF_ABC),
    ]


def test_sha256_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
