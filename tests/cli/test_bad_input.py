"""Bad input: one paragraph that names what, where and the remedy, exit code 2, nothing written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REMEDY = re.compile(
    r"\b(Set|Correct|Fill|Mend|Save|Add|Download|Name|Free|Shorten|Check|Did you mean|Convert|"
    r"Start|Write|Look|Give)\b"
)
MOST_CHARACTERS = 1500

Cli = Callable[..., Any]
Rows = Callable[..., Path]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder that does not exist yet, alone in its parent."""
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "out"


@pytest.fixture
def refused(cli: Cli, out: Path, base_folder: Path) -> Callable[..., str]:
    """Run a stage that must refuse its input; give what it said, in one line."""

    def run(stage: str, *words: object, parts: tuple[str, ...], model: Path | None = None) -> str:
        outcome = cli(
            stage,
            f"model.name_or_path={model or base_folder}",
            "tracking.enabled=false",
            f"output_dir={out}",
            *words,
        )
        said: str = outcome.said
        assert outcome.code == 2, said
        assert said.startswith("error: ")
        assert "Traceback" not in said and "\n\n" not in outcome.err.strip()
        assert len(said) < MOST_CHARACTERS
        assert REMEDY.search(said), f"no remedy in: {said}"
        for part in parts:
            assert part in said
        assert list(out.parent.iterdir()) == [], "something half-written is left"
        assert outcome.out == ""
        return said

    return run


stages = pytest.mark.parametrize("stage", ["validate", "score", "sft"])


@stages
def test_a_missing_file(stage: str, refused: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    refused(stage, f"data.train={missing}", parts=(f"{missing}: no such file", "data.train"))


def test_no_file_at_all(refused: Any) -> None:
    refused("sft", parts=("data.train names no file",))


def test_every_missing_file_is_named_at_once(refused: Any, tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    refused("sft", f"data.train={a}", f"data.validation={b}", parts=(str(a), str(b)))


@stages
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", ""), ("a.json", "\n \n"), ("a.json", "[]"), ("a.jsonl", ""), ("a.jsonl", "\n \n")],
)
def test_an_empty_file(stage: str, name: str, content: str, refused: Any, rows: Rows) -> None:
    path = rows(content, name)
    refused(stage, f"data.train={path}", parts=(f"{path}: holds no row",))


@stages
def test_broken_json_names_the_line(stage: str, refused: Any, rows: Rows) -> None:
    text = '[\n{"instruction": "a", "output": "b"},\n{"instruction": "c", "output" "d"}\n]'
    path = rows(text)
    refused(stage, f"data.train={path}", parts=(f"{path}:3: not valid JSON",))


def test_a_broken_line_of_a_jsonl_names_the_line_where_nothing_may_be_dropped(
    refused: Any, rows: Rows
) -> None:
    path = rows('{"instruction": "a", "output": "b"}\n{"instruction": \n', "rows.jsonl")
    refused("sft", f"data.train={path}", "data.on_invalid=fail", parts=(f"{path}:2", "is not JSON"))


@stages
def test_a_wrong_encoding_names_the_byte(stage: str, refused: Any, rows: Rows) -> None:
    text = json.dumps([{"instruction": "Grüße", "output": "b"}], ensure_ascii=False)
    path = rows(text.encode("latin-1"))
    byte = text.index("ü")
    refused(
        stage, f"data.train={path}", parts=(f"{path}: byte {byte} is not utf-8", "data.encoding")
    )


@stages
def test_no_assistant_turn(stage: str, refused: Any, rows: Rows) -> None:
    row = {"messages": [{"role": "user", "content": "Is anybody there?"}]}
    path = rows([row] * 2)
    refused(
        stage, f"data.train={path}", parts=("all 2 labels are masked", f"{path}:2", "assistant")
    )


@stages
def test_all_labels_masked(stage: str, refused: Any, rows: Rows) -> None:
    path = rows([{"instruction": "word " * 60 + str(i), "output": "yes"} for i in range(3)])
    refused(
        stage,
        f"data.train={path}",
        "data.max_length=16",
        "data.on_too_long=truncate",
        parts=("no row has a token to train", "ytrainer preview"),
    )


@stages
def test_a_model_folder_without_weights(
    stage: str, refused: Any, rows: Rows, base_folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base_folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    parts = (f"{bare}: has no *.safetensors weights",)
    refused(stage, f"data.train={rows()}", model=bare, parts=parts)


def test_a_model_folder_that_does_not_exist(refused: Any, rows: Rows, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    parts = (f"{nowhere}: no such model folder", "model.name_or_path")
    refused("sft", f"data.train={rows()}", model=nowhere, parts=parts)


def test_damaged_weights(refused: Any, rows: Rows, base_folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(base_folder, damaged)
    weights = next(damaged.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    refused("sft", f"data.train={rows()}", model=damaged, parts=(str(damaged), "complete"))


@stages
def test_a_corpus_that_is_empty_after_validation(stage: str, refused: Any, rows: Rows) -> None:
    path = rows([{"instruction": f"Say {i}", "output": ""} for i in range(4)])
    refused(stage, f"data.train={path}", parts=("all 4 rows are quarantined", f"{path}:2"))


def test_samples_that_an_error_names_can_be_looked_at(refused: Any, rows: Rows) -> None:
    path = rows([{"instruction": f"Say {i}", "output": ""} for i in range(4)])
    said = refused("validate", f"data.train={path}", parts=("Samples",))
    folder = Path(re.search(r"Samples of the quarantined rows: (\S+)", said)[1])  # type: ignore[index]
    assert "Say 0" in "".join(file.read_text() for file in folder.glob("*.jsonl"))


@stages
def test_an_output_folder_that_is_not_empty_is_left_as_it_is(
    stage: str, cli: Cli, rows: Rows, base_folder: Path, out: Path
) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    outcome = cli(
        stage,
        f"model.name_or_path={base_folder}",
        f"data.train={rows()}",
        "tracking.enabled=false",
        f"output_dir={out}",
    )
    assert outcome.code == 2
    assert f"output_dir {out}: is not empty" in outcome.said
    assert "Name a new folder" in outcome.said
    assert [path.name for path in out.parent.rglob("*")] == ["out", "mine.txt"]
    assert (out / "mine.txt").read_text() == "precious"


# --- disk full -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["validate", "score", "sft"])
def test_a_full_disk_while_the_stage_writes(
    stage: str, refused: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync is where every atomic write of ours meets the disk."""
    path = rows()

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)
    refused(stage, f"data.train={path}", parts=("no space is left",))


def test_a_full_disk_while_the_result_is_put_in_place(
    refused: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = rows(), os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name in ("out", "result.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    refused("validate", f"data.train={path}", parts=("no space is left",))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk("200k") -> folder on a disk of that size, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root mounts a file system")
        mounted.append(folder)
        return folder

    yield mount
    for one in mounted:
        subprocess.run(["umount", "--lazy", str(one)], check=True)


@pytest.mark.parametrize(
    ("stage", "size"),
    [("validate", "16k"), ("score", "16k"), ("sft", "16k"), ("sft", "120k"), ("sft", "160k")],
)
def test_a_disk_that_is_really_full(
    stage: str, size: str, cli: Cli, rows: Rows, base_folder: Path, small_disk: Any
) -> None:
    """The sizes let it fill up while the corpus, a checkpoint or the model is written."""
    disk = small_disk(size)
    outcome = cli(
        stage,
        f"model.name_or_path={base_folder}",
        f"data.train={rows()}",
        "tracking.enabled=false",
        "train.max_steps=1",
        f"output_dir={disk / 'out'}",
    )
    assert outcome.code == 2, outcome.said
    assert "no space is left" in outcome.said and "Free" in outcome.said
    assert "Traceback" not in outcome.err
    assert not list(disk.iterdir())


def test_a_full_home_while_a_checkpoint_is_written(
    cli: Cli,
    rows: Rows,
    base_folder: Path,
    small_disk: Any,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("YTRAINER_HOME", str(small_disk("60k")))
    outcome = cli(
        "sft",
        f"model.name_or_path={base_folder}",
        f"data.train={rows()}",
        "tracking.enabled=false",
        "train.max_steps=2",
        "train.save_steps=1",
        f"output_dir={out}",
    )
    assert outcome.code == 2, outcome.said
    assert "no space is left" in outcome.said
    assert not out.exists()


# --- words that mean nothing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("sft", "optim.learning_rat=1"),
            ("optim.learning_rat: unknown key", "optim.learning_rate"),
        ),
        (("sft", "learning_rate=1"), ("learning_rate: unknown key", "'optim.learning_rate'")),
        (("sft", "optm.learning_rate=1"), ("optm: unknown key", "'optim'")),
        (("sft", "lora.rank=-1"), ("lora.rank", "-1")),
        (("sft", "missing.yaml"), ("missing.yaml: no such config file", "examples/")),
        (("sft", "a.yaml", "seed"), ("'seed' is not key=value",)),
        (("show", "fly"), ("'fly' is no stage", "validate")),
        (("schema", "fly"), ("'fly' is no stage",)),
        (("fly",), ("fly",)),
        (("pipeline", "compile", "fly"), ("'fly' is no pipeline", "finetune")),
        (("pipeline", "run", "fly", "--local"), ("'fly' is no pipeline", "finetune")),
        (("pipeline", "run", "finetune"), ("--local", "--host")),
        (("sft", "--input", "corpus=."), ("sft has no input 'corpus'", "dataset, order")),
        (("sft", "--input", "dataset"), ("expected NAME=PATH",)),
        (("sft", "--input", "dataset=nowhere"), ("input dataset: nowhere does not exist",)),
        (("evaluate",), ("input 'model' is missing", "--input model=")),
        (("merge", "nowhere", "--out", "x"), ("nowhere",)),
        (("chat", "./nowhere", "--once", "a"), ("./nowhere", "no such model folder")),
    ],
)
def test_words_that_mean_nothing_are_refused_by_name(
    words: tuple[str, ...],
    parts: tuple[str, ...],
    cli: Cli,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    base = (f"model.name_or_path={base_folder}", "tracking.enabled=false")
    more = base if words[0] in ("sft", "evaluate") else ()
    outcome = cli(*words, *more)
    assert outcome.code in (2, 4) if words[0] == "merge" else outcome.code == 2, outcome.said
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.said
    assert {path.name for path in tmp_path.iterdir()} <= {"a.yaml", "home"}


def test_all_faults_of_a_config_come_together_with_their_lines(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 1\noptim:\n  learning_rate: -1\ntrain:\n  max_stepz: 3\nlorra: {}\n")
    outcome = cli("sft", config)
    assert outcome.code == 2
    assert f"{config}:3: optim.learning_rate" in outcome.said
    assert f"{config}:5: train.max_stepz: unknown key. Did you mean 'train.max_ste" in outcome.said
    assert f"{config}:6: lorra: unknown key. Did you mean 'lora'" in outcome.said


def test_broken_yaml_names_its_line(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("seed: 1\noptim: [\n")
    outcome = cli("sft", config)
    assert outcome.code == 2 and re.search(rf"{config}:[23]: ", outcome.said)


def test_an_override_that_the_stage_does_not_read_is_warned_of(
    cli: Cli, rows: Rows, base_folder: Path, out: Path
) -> None:
    outcome = cli(
        "validate",
        f"model.name_or_path={base_folder}",
        f"data.train={rows()}",
        "tracking.enabled=false",
        f"output_dir={out}",
        "lora.rank=2",
    )
    assert outcome.code == 0
    assert "lora.rank has no effect: validate does not read it" in outcome.said


# --- --debug -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(
    place: str, cli: Cli, tmp_path: Path, base_folder: Path
) -> None:
    words = ["sft", f"data.train={tmp_path}/no.json", f"model.name_or_path={base_folder}",
             "tracking.enabled=false"]  # fmt: skip
    words = ["--debug", *words] if place == "before" else [*words, "--debug"]
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.err and "DataError" in outcome.err


def test_an_unforeseen_error_says_how_to_see_where_and_exits_4(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, rows: Rows, base_folder: Path, out: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of course")

    monkeypatch.setattr("ytrainer_core.stages.validate.prepare", broken)
    outcome = cli(
        "validate",
        f"model.name_or_path={base_folder}",
        f"data.train={rows()}",
        "tracking.enabled=false",
        f"output_dir={out}",
    )
    assert outcome.code == 4
    assert "ZeroDivisionError: of course" in outcome.said and "--debug" in outcome.said
    assert "Traceback" not in outcome.err and not out.exists()


def test_the_console_script_ends_with_the_same_code(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "ytrainer"
    command = [str(script)] if script.exists() else [sys.executable, "-c", _CALL]
    done = subprocess.run(
        [*command, "sft", "seed=-1"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2 and "seed" in done.stderr and not done.stdout


_CALL = "from ytrainer_core.cli import main; main()"
