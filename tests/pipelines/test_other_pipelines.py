"""The other pipelines on this machine: a base from nothing, a corpus scored by it, text read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from homes import CLI, client_of, environment
from parity import given_by, given_in

from ytrainer_core.data.corpus import load_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COLOURS = ("red", "green", "blue")
COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
TINY = [
    "architecture.vocab_size=400",
    "architecture.hidden_size=32",
    "architecture.num_hidden_layers=1",
    "data.max_length=128",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of text and one of conversations, and a home for all runs."""
    folder = tmp_path_factory.mktemp("others")
    paragraphs = (
        f"Paragraph {i} of some prose about {COLOURS[i % 3]} things, long enough to be a document."
        for i in range(60)
    )
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    rows = [
        {"instruction": f"Which colour has {i}?", "output": f"colour: {COLOURS[i % 3]}"}
        for i in range(40)
    ]
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    return folder


def run(folder: Path, name: str, *words: str) -> tuple[dict[str, Any], Path]:
    """(what the command told, the run's folder)."""
    before = set(runs_of(folder, name))
    command = [*CLI, "pipeline", "run", name, "--local", "--json", *words]
    with environment(folder / "home"):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (made,) = set(runs_of(folder, name)) - before
    declared = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text(encoding="utf-8")))
    assert given_in(made / "kfp") == given_by(declared)
    told: dict[str, Any] = json.loads(done.stdout)
    return told, made


def runs_of(folder: Path, name: str) -> list[Path]:
    return list((folder / "home" / "pipelines").glob(f"{name}-2*"))


@pytest.fixture(scope="module")
def base(folder: Path) -> dict[str, Any]:
    """What the pretrain pipeline told."""
    return run(folder, "pretrain", *TINY, "data.train=text.txt", "train.max_steps=4",
               "registry.name=base")[0]  # fmt: skip


def test_a_model_from_nothing_is_registered_and_nobody_judges_it(
    folder: Path, base: dict[str, Any]
) -> None:
    assert base["version"] == "models:/base/1"
    assert [*base["stages"]] == ["validate", "pretrain", "register"]
    assert "target_tokens" not in base["stages"]["validate"]["metrics"]  # no tokenizer yet
    version = client_of(folder / "home").get_model_version("base", "1")
    assert version.tags["ytrainer.form"] == "full" and "ytrainer.gate" not in version.tags


def test_a_corpus_is_scored_by_it_and_nothing_is_trained(
    folder: Path, base: dict[str, Any]
) -> None:
    told, made = run(folder, "score_only", "data.train=rows.json", "data.max_length=128",
                     f"model.name_or_path={base['version']}", "order.mode=mean_loss")  # fmt: skip
    assert told["version"] == ""
    assert [*told["stages"]] == ["validate", "score", "order"]
    kept = told["stages"]["validate"]["metrics"]["rows_train"]
    assert told["stages"]["score"]["metrics"]["rows_scored"] == kept > 30
    assert sorted(page.stem for page in (made / "reports").iterdir()) == [
        "order", "score", "validate"
    ]  # fmt: skip


def test_it_goes_on_reading_text_and_the_gate_judges_what_came_of_it(
    folder: Path, base: dict[str, Any]
) -> None:
    told, _ = run(folder, "cpt", "data.train=text.txt", "data.max_length=128", "registry.name=read",
                  f"model.name_or_path={base['version']}", "train.max_steps=4", "gate.min_rows=4",
                  "gate.min_target_loss_drop=-9")  # fmt: skip
    assert told["version"] == "models:/read/1"
    assert told["stages"]["evaluate"]["values"] == {"passed": True}
    home = folder / "home"
    champion = client_of(home).get_model_version_by_alias("read", "champion")
    assert int(champion.version) == 1


def test_text_and_instructions_in_one_run_are_trained_one_after_the_other(
    folder: Path, base: dict[str, Any]
) -> None:
    told, _ = run(folder, "finetune", "data.train=text.txt,rows.json", "data.max_length=128",
                     "order.mode=file", "registry.name=both", "train.max_steps=4",
                     f"model.name_or_path={base['version']}", "gate.min_rows=4",
                     "gate.min_target_loss_drop=-9")  # fmt: skip
    assert told["version"] == "models:/both/1"
    corpus = load_corpus(Path(told["stages"]["score"]["outputs"]["dataset"]))
    order = json.loads(Path(told["stages"]["order"]["outputs"]["order"]).read_text())
    texts = [bool(corpus.train[i]["text"]) for i in order["rows"]]
    assert texts == sorted(texts, reverse=True) and 40 < sum(texts) < len(texts)


def test_liked_and_disliked_answers_are_learned_and_the_gate_judges_what_came_of_it(
    folder: Path, base: dict[str, Any]
) -> None:
    rows = [
        {"prompt": f"Which colour has {i}?", "completion": f"It is {COLOURS[i % 3]} {end}.",
         "label": end == "please"}
        for i in range(20)
        for end in ("please", "now")
    ]  # fmt: skip
    (folder / "liked.json").write_text(json.dumps(rows, indent=1))
    told, _ = run(folder, "kto", "data.train=liked.json", "data.max_length=128",
                  "registry.name=liked", f"model.name_or_path={base['version']}",
                  "train.max_steps=4", "preference.batch_size=4", "gate.min_rows=1",
                  "gate.min_target_loss_drop=-9")  # fmt: skip
    assert told["version"] == "models:/liked/1"
    assert [*told["stages"]] == ["validate", "kto", "evaluate", "register", "promote"]
    assert told["stages"]["validate"]["metrics"]["rows_quarantined"] == 0
