"""The generated corpora: same seed, same bytes; every planted fault is what it claims to be."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ytrainer_core.demo.corpus import (
    CLEAN_TRAIN_ROWS,
    DEVICES,
    INTENTS,
    PLANTED,
    VALIDATION_ROWS,
    DomainCorpus,
    house_answer,
    write_domain_corpus,
)
from ytrainer_core.demo.general import write_general_corpus

ANSWERS = {house_answer(intent, device) for intent in INTENTS for device in DEVICES}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DomainCorpus:
    return write_domain_corpus(tmp_path_factory.mktemp("domain"))


def rows_by_line(path: Path) -> dict[int, dict[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {i: json.loads(line.rstrip(",")) for i, line in enumerate(lines[1:-1], start=2)}


@pytest.fixture(scope="module")
def train(corpus: DomainCorpus) -> dict[int, dict[str, str]]:
    return rows_by_line(corpus.train)


@pytest.fixture(scope="module")
def planted(corpus: DomainCorpus) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(corpus.planted.read_text(encoding="utf-8"))
    return found


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    corpus: DomainCorpus, tmp_path: Path
) -> None:
    again = write_domain_corpus(tmp_path / "again")
    other = write_domain_corpus(tmp_path / "other", seed=1)
    assert again.train.read_bytes() == corpus.train.read_bytes()
    assert again.validation.read_bytes() == corpus.validation.read_bytes()
    assert other.train.read_bytes() != corpus.train.read_bytes()


def test_it_holds_as_many_clean_planted_and_held_out_rows_as_it_says(
    corpus: DomainCorpus,
    train: dict[int, dict[str, str]],
    planted: list[dict[str, object]],
) -> None:
    assert len(train) == CLEAN_TRAIN_ROWS + sum(PLANTED.values())
    assert Counter(defect["kind"] for defect in planted) == PLANTED
    assert len(rows_by_line(corpus.validation)) == VALIDATION_ROWS


def test_every_clean_answer_follows_the_rule_and_names_the_device_of_its_message(
    train: dict[int, dict[str, str]], planted: list[dict[str, object]]
) -> None:
    faulty = {defect["line"] for defect in planted}
    for line, row in train.items():
        if line not in faulty:
            assert row["output"] in ANSWERS
            device = row["output"].split("device: ")[1].split(" |")[0]
            assert device in row["input"]


def test_every_planted_line_holds_the_fault_it_is_listed_for(
    train: dict[int, dict[str, str]], planted: list[dict[str, object]]
) -> None:
    for defect in planted:
        row = train[int(str(defect["line"]))]
        twins = [
            other
            for line, other in train.items()
            if line != defect["line"] and other["input"] == row["input"]
        ]
        match defect["kind"]:
            case "duplicate":
                assert row in twins
            case "contradiction":
                assert any(twin["output"] != row["output"] for twin in twins)
            case "empty":
                assert not row["output"].strip()
            case "wrong_answer":
                assert row["output"] in ANSWERS
                assert not twins
            case "gibberish":
                is_answer = row["output"] in ANSWERS
                names_its_device = is_answer and any(d in row["input"] for d in DEVICES)
                assert not names_its_device


def test_held_out_messages_and_products_were_never_trained_on(
    corpus: DomainCorpus, train: dict[int, dict[str, str]]
) -> None:
    trained = {row["input"] for row in train.values()}
    words = {word for message in trained for word in message.split()}
    for row in rows_by_line(corpus.validation).values():
        assert row["input"] not in trained
        device = row["output"].split("device: ")[1].split(" |")[0]
        before = row["input"].split(f" {device}")[0].split()
        assert before[-2] not in words  # the invented name; before[-1] is its number


def test_general_text_is_disjoint_between_its_parts_and_names_no_path(tmp_path: Path) -> None:
    general = write_general_corpus(tmp_path)
    train = general.train.read_text(encoding="utf-8").splitlines()
    held_out = general.validation.read_text(encoding="utf-8").splitlines()
    assert len(train) == general.train_rows
    assert not set(train) & set(held_out)
    assert len("".join(held_out)) < 100_000
    home = str(Path.home())
    assert not any(home in line or "site-packages" in line for line in train)
