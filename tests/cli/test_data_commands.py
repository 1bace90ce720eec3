"""Corpora of every kind on the command line: what they are for, and how they are mixed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_examples import alpaca

from ytrainer_core.data import load_corpus, mask_segments
from ytrainer_core.data.tokenize import Tokenized, tokenize_dataset
from ytrainer_core.training.model import load_tokenizer

Cli = Callable[..., Any]
Rows = Callable[..., Path]


@pytest.fixture
def shared(base_folder: Path) -> list[str]:
    """Overrides that every command here takes."""
    return [
        f"model.name_or_path={base_folder}",
        "data.max_length=64",
        "data.validation_fraction=0",
        "tracking.enabled=false",
    ]


def train(cli: Cli, shared: list[str], out: Path, *words: object) -> Any:
    return cli("sft", *shared, "train.max_steps=2", "lora.rank=2", f"output_dir={out}", *words)


# --- an earlier model ----------------------------------------------------------------------------


def test_a_tenth_of_what_an_earlier_model_was_trained_on_is_replayed(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    first, second = rows(alpaca(30), "first.json"), rows(alpaca(20, first=50), "second.json")
    assert train(cli, shared, tmp_path / "one", f"data.train={first}").code == 0
    words = [f"data.train={second}", f"model.init_from={tmp_path / 'one' / 'model'}"]
    outcome = cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 0 and "30 of the earlier model" in outcome.out
    corpus = load_corpus(tmp_path / "v" / "dataset")
    assert {origin.rpartition(":")[0] for origin in corpus.earlier["origin"]} == {str(first)}
    told = cli("show", "sft", *shared, *words, "--no-probe")
    assert told.code == 0, told.said
    rows_told = next(line for line in told.out.splitlines() if "│ rows " in line)
    assert "22" in rows_told  # 20, and a tenth as many
    assert train(cli, shared, tmp_path / "two", *words).code == 0
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["metrics"]["optimizer_steps"] == 2


def test_rows_of_an_earlier_model_that_are_gone_are_named_with_the_way_out(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    first, second = rows(alpaca(30), "first.json"), rows(alpaca(20, first=50), "second.json")
    assert train(cli, shared, tmp_path / "one", f"data.train={first}").code == 0
    first.unlink()
    words = [f"data.train={second}", f"model.init_from={tmp_path / 'one' / 'model'}"]
    outcome = cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 2
    assert str(first) in outcome.said and "data.earlier_ratio=0" in outcome.said
    words.append("data.earlier_ratio=0")
    assert cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}").code == 0


# --- purposes ------------------------------------------------------------------------------------


def labelled(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {i}?", "completion": f"It is {i}.", "label": i % 2 == 0}
        for i in range(count)
    ]


def test_bad_answers_are_kept_for_kto_and_never_imitated(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    words = [f"data.train={rows(labelled(20))}"]
    outcome = cli("validate", *shared, *words, "data.purpose=auto", f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 0, outcome.said
    counts = load_corpus(tmp_path / "v" / "dataset").manifest["counts"]
    assert counts["kinds"] == {"good": 10, "bad": 10}
    given = ["--input", f"dataset={tmp_path / 'v' / 'dataset'}"]
    refused = train(cli, shared, tmp_path / "s", *words, *given)
    assert refused.code == 2 and "data.purpose=sft" in refused.said
    outcome = train(cli, shared, tmp_path / "s", *words, "data.max_dropped=0.5")
    assert outcome.code == 0, outcome.said
    kept = load_corpus(tmp_path / "s" / "dataset").manifest["counts"]
    assert kept["rules"] == {"not_for_training": 10} and kept["train"] == 10


def test_the_chosen_answer_of_a_pair_can_be_imitated(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    pairs = [
        {"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": f"It is {i + 1}."}
        for i in range(20)
    ]
    assert train(cli, shared, tmp_path / "s", f"data.train={rows(pairs)}").code == 0


def test_nearly_only_good_labels_are_a_warning(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    one_bad = [row | {"label": i > 0} for i, row in enumerate(labelled(40))]
    words = [f"data.train={rows(one_bad)}", "data.purpose=kto"]
    outcome = cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 0 and "label_imbalance 1" in outcome.out
    assert "39 answers are labelled good and 1 bad" in (tmp_path / "v" / "report.html").read_text()


# --- mixing --------------------------------------------------------------------------------------


def test_sources_are_taken_at_their_rates(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    often, seldom = rows(alpaca(10), "often.json"), rows(alpaca(40, first=100), "seldom.json")
    words = [f"data.train={often}@3,{seldom}@0.25"]
    outcome = cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 0, outcome.said
    corpus = load_corpus(tmp_path / "v" / "dataset")
    taken = Counter(origin.rpartition(":")[0] for origin in corpus.train["origin"])
    assert taken == {str(often): 30, str(seldom): 10}
    told = [(s["rate"], s["rows"], s["taken"]) for s in corpus.manifest["sources"]]
    assert told == [(3.0, 10, 30), (0.25, 40, 10)]


def test_too_few_rows_after_sampling_stop(
    cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    words = [f"data.train={rows(alpaca(40))}@0.5", "data.min_rows=30"]
    outcome = cli("validate", *shared, *words, f"output_dir={tmp_path / 'v'}")
    assert outcome.code == 2 and "20 rows are left" in outcome.said


def test_joined_conversations_train_every_answer_as_before(
    cli: Cli, rows: Rows, shared: list[str], base_folder: Path, tmp_path: Path
) -> None:
    from ytrainer_core.config import DataConfig

    path = rows(alpaca(40))
    tokenizer = load_tokenizer(base_folder)
    answers = []
    for probability in (0, 1):
        out = tmp_path / str(probability)
        words = [f"data.train={path}", f"data.join_probability={probability}"]
        outcome = cli("validate", *shared, *words, "data.max_length=200", f"output_dir={out}")
        assert outcome.code == 0, outcome.said
        corpus = load_corpus(out / "dataset")
        said: list[str] = []
        for row in tokenize_dataset(corpus.train, tokenizer, DataConfig(max_length=200)):
            assert len(row["input_ids"]) <= 200
            segments = mask_segments(Tokenized.of(row["input_ids"], row["labels"]), tokenizer)
            said += [text for text, trained in segments if trained]
        answers.append((len(corpus.train), sorted(said)))
    (apart, alone), (together, joined) = answers
    assert alone == joined and len(alone) == 40
    assert apart == 40 and together < 20


# --- what a person meets -------------------------------------------------------------------------


def test_an_unknown_rule_is_named_with_the_nearest_one(
    cli: Cli, rows: Rows, shared: list[str]
) -> None:
    outcome = cli("validate", *shared, f"data.train={rows()}", "data.rules=near_duplicates=off")
    assert outcome.code == 2 and "near_duplicate" in outcome.said


@pytest.mark.parametrize("rules", ["near_duplicate=off", "near_duplicate: off"])
def test_a_rule_is_switched_off_on_the_line_and_in_the_yaml(
    rules: str, cli: Cli, rows: Rows, shared: list[str], tmp_path: Path
) -> None:
    long = " ".join(f"word {i}" for i in range(60))
    near = [{"instruction": f"Say it {i}.", "output": f"{long} and {i}"} for i in range(10)]
    config = tmp_path / "run.yaml"
    config.write_text("data: {rules: {near_duplicate: off}}" if ":" in rules else "")
    words = [*shared, f"data.train={rows(near)}", "data.max_length=1000"]
    found = cli("validate", *words, f"output_dir={tmp_path / 'on'}")
    assert "near_duplicate 9" in found.out
    words += [f"data.rules={rules}"] * ("=" in rules)
    switched = cli("validate", config, *words, f"output_dir={tmp_path / 'off'}")
    assert switched.code == 0 and "near_duplicate" not in switched.out
