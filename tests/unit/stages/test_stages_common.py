"""What an earlier model saw is found through its card, and only answers are imitated."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig, SftConfig
from ytrainer_core.data import Corpus, prepare_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.files import write_json
from ytrainer_core.stages.common import data_of, require_answers
from ytrainer_core.training.model import CARD_NAME, BaseReference, ModelCard


def trained_on(folder: Path, *sources: Path, base: str = "some/base") -> Path:
    """The folder of a model that was trained on these."""
    names = [str(source) for source in sources]
    card = ModelCard(
        "adapter", BaseReference(base, "", "0" * 64), "float32", config={"data": {"train": names}}
    )
    write_json(folder / CARD_NAME, asdict(card))
    return folder


def rows(path: Path) -> Path:
    path.write_text('{"question": "q", "answer": "a"}\n')
    return path


def earlier(model: dict[str, Path], **data: Any) -> tuple[str, ...]:
    """What `data_of` makes of data.earlier."""
    names = {name: str(folder) for name, folder in model.items()}
    config = SftConfig.model_validate({"model": names, "data": {"train": "new.jsonl", **data}})
    return data_of(config).earlier


def test_training_that_goes_on_from_a_model_replays_what_that_one_saw(tmp_path: Path) -> None:
    first, second = rows(tmp_path / "first.jsonl"), rows(tmp_path / "second.jsonl")
    one = trained_on(tmp_path / "one", first)
    two = trained_on(tmp_path / "two", second)
    assert earlier({"init_from": one}) == (str(first),)
    assert earlier({"name_or_path": two}) == (str(second),)
    assert earlier({"init_from": one, "name_or_path": two}) == (str(first),)


def test_a_model_that_is_not_ours_or_was_made_from_scratch_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    scratch = trained_on(tmp_path / "scratch", rows(tmp_path / "first.jsonl"), base="")
    assert earlier({"name_or_path": tmp_path / "base"}) == ()
    assert earlier({"name_or_path": scratch}) == ()


def test_what_data_earlier_names_stands(tmp_path: Path) -> None:
    one = trained_on(tmp_path / "one", rows(tmp_path / "first.jsonl"))
    assert earlier({"init_from": one}, earlier="own.jsonl") == ("own.jsonl",)


def test_rows_that_are_gone_are_an_error_but_where_none_are_replayed(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    one = trained_on(tmp_path / "one", gone)
    with pytest.raises(DataError) as caught:
        earlier({"init_from": one})
    assert caught.value.faults[0].startswith(f"{gone}: no such file")
    assert "data.earlier_ratio=0" in caught.value.faults[1]
    assert earlier({"init_from": one}, earlier_ratio=0) == ()


ANSWERED = {"prompt": "q 1", "completion": "a", "label": True}
BAD = {"prompt": "q 2", "completion": "a", "label": False}
QUESTION = {"prompt": "q 3", "answer": "3"}


def corpus_of(folder: Path, *made: dict[str, Any]) -> Corpus:
    """Each row in a file of its own, since they are of several shapes."""
    for number, row in enumerate(made):
        (folder / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    config = DataConfig.model_validate(
        {"train": str(folder / "*.jsonl"), "purpose": "auto", "validation_fraction": 0}
    )
    corpus = prepare_corpus(config, folder / "corpus", tokenizer=None, seed=0)
    assert len(corpus.train) == len(made)
    return corpus


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (BAD, "holds 1 rows whose answer is labelled bad and 0 without an answer"),
        (QUESTION, "holds 0 rows whose answer is labelled bad and 1 without an answer"),
    ],
)
def test_a_corpus_with_rows_that_must_not_be_imitated_is_refused(
    tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=rf"{said}.*data\.purpose=sft"):
        require_answers(corpus_of(tmp_path, ANSWERED, other))


def test_answers_that_are_called_good_are_imitated(tmp_path: Path) -> None:
    require_answers(corpus_of(tmp_path, ANSWERED, ANSWERED | {"prompt": "q 4"}))
