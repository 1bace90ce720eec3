"""From a corpus to prompts and answers: what is a row, what is refused, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.preference.rows import PreferenceRow, Rows, preference_rows, require_both

Read = Callable[..., Rows]


@pytest.fixture
def read(tokenizer: Any, tmp_path: Path) -> Read:
    """read(rows, pairs=False, **DataConfig) -> what becomes of them."""

    def go(rows: list[dict[str, Any]], pairs: bool = False, **fields: Any) -> Rows:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows, indent=1))
        config = DataConfig(
            train=(str(path),), validation_fraction=0, **({"purpose": "auto"} | fields)
        )
        checks = config.model_copy(update={"max_length": 4096, "on_too_long": "drop"})
        corpus = prepare_corpus(checks, tmp_path / "corpus", tokenizer=tokenizer, seed=0)
        return preference_rows(corpus.train, tokenizer, config, pairs=pairs)

    return go


def kto_row(question: str, answer: str, label: object) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, "label": label}


def test_a_row_is_cut_where_its_last_answer_begins(read: Read, tokenizer: Any) -> None:
    turns = [
        {"role": "user", "content": "What is two?"},
        {"role": "assistant", "content": "It is two."},
        {"role": "user", "content": "And four?"},
        {"role": "assistant", "content": "It is four."},
    ]
    (row,) = read([{"messages": turns, "label": False}]).rows
    assert row.label is False
    assert tokenizer.decode(row.completion_ids) == "It is four.<|im_end|>"
    asked = tokenizer.apply_chat_template(turns[:3], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(row.prompt_ids) == asked


def test_a_pair_becomes_a_liked_row_and_a_disliked_one_behind_it(
    read: Read, tokenizer: Any
) -> None:
    pair = {"prompt": "What is two?", "chosen": "Two.", "rejected": "Four."}
    for pairs in (False, True):
        liked, disliked = read([pair], pairs=pairs).rows
        assert (liked.label, disliked.label) == (True, False)
        assert liked.prompt_ids == disliked.prompt_ids
        assert tokenizer.decode(liked.completion_ids) == "Two.<|im_end|>"
        assert tokenizer.decode(disliked.completion_ids) == "Four.<|im_end|>"


def test_the_systems_message_is_put_before_both_answers_of_a_pair(
    read: Read, tokenizer: Any
) -> None:
    pair = {"prompt": "What is two?", "chosen": "Two.", "rejected": "Four."}
    for row in read([pair], system_prompt="Be short.").rows:
        assert "Be short." in tokenizer.decode(row.prompt_ids)


def test_rows_without_an_opinion_are_refused_with_the_way_to_quarantine_them(read: Read) -> None:
    plain = {"prompt": "What is two?", "completion": "Two."}
    with pytest.raises(DataError, match=r"rows\.json:\d+: has no label.*data\.purpose=kto"):
        read([kto_row("What is four?", "Four.", True), plain])
    with pytest.raises(DataError, match=r"has no rejected answer.*data\.purpose=preference"):
        read([kto_row("What is four?", "Four.", True)], pairs=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": "What?", "completion": "No label."},
        {"prompt": "What?", "completion": "No boolean.", "label": "perhaps"},
        {"prompt": "What?", "completion": "", "label": True},
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason(
    bad: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    good = [kto_row(f"What is {i}?", f"It is {i}.", i % 2 == 0) for i in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps([*good, bad]))
    config = DataConfig(
        train=(str(tmp_path / "rows.json"),), purpose="kto", max_dropped=0.5, validation_fraction=0
    )
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=tokenizer, seed=0)
    assert len(corpus.train) == 9 and corpus.manifest["counts"]["quarantined"] == 1
    assert "rows.json:" in (corpus.folder / "quarantine.jsonl").read_text()


def test_rows_whose_prompt_fills_the_length_are_counted_and_told(read: Read) -> None:
    long = "What is the answer to the question? " * 20
    rows = [
        kto_row(long, "Two.", True),
        kto_row("What?", "Four.", True),
        kto_row("Is?", "a", False),
    ]
    found = read(rows, max_length=40, on_too_long="truncate")
    assert [row.label for row in found.rows] == [True, False] and len(found.cut) == 1
    (told,) = require_both(found, pairs=False)
    assert told.startswith("1 rows are not trained, since their prompt fills data.max_length")
    assert found.cut[0] in told


def test_an_answer_is_cut_at_the_length_and_longer_rows_are_refused_unless_asked(
    read: Read,
) -> None:
    rows = [kto_row("What?", "The answer is four. " * 20, True)]
    (row,) = read(rows, max_length=40, on_too_long="truncate").rows
    assert len(row.prompt_ids) + len(row.completion_ids) == 40
    with pytest.raises(DataError, match=r"more than data\.max_length=40"):
        read(rows, max_length=40)


def test_a_pair_loses_both_answers_where_one_is_cut_off(read: Read) -> None:
    long = "What is the answer to the question? " * 20
    pairs = [{"prompt": p, "chosen": "Two.", "rejected": "Four."} for p in ("What?", long)]
    found = read(pairs, pairs=True, max_length=40, on_too_long="truncate")
    assert [row.label for row in found.rows] == [True, False] and len(found.cut) == 1


def labelled(liked: int, disliked: int) -> Rows:
    labels = [True] * liked + [False] * disliked
    return Rows([PreferenceRow(f"r:{i}", [1], [2], label) for i, label in enumerate(labels)], [])


@pytest.mark.parametrize(("liked", "missing"), [(0, "liked"), (8, "disliked")])
def test_rows_of_one_kind_are_refused(liked: int, missing: str) -> None:
    with pytest.raises(DataError, match=f"none of 8 answers is {missing}"):
        require_both(labelled(liked, 8 - liked), pairs=False)


def test_extreme_imbalance_is_told_with_figures() -> None:
    (told,) = require_both(labelled(96, 4), pairs=False)
    assert "96 answers are liked and 4 disliked (4.0% of one kind)" in told
    assert require_both(labelled(95, 5), pairs=False) == []
