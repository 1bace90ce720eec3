"""The digest of a split is that of the rows it shows, not of the file that they lie in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data import Corpus, prepare_corpus, tokenize_dataset
from ytrainer_core.data.corpus import digest_of

CONFIG = DataConfig(validation_fraction=0)
ORDERS = {"reversed": [3, 2, 1, 0], "repeated": [0, 0, 2, 3], "fewer": [0, 1, 2]}


@pytest.fixture
def corpus(tmp_path: Path, jsonl: Callable[..., str], marked: Any) -> Corpus:
    rows = [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(4)]
    config = CONFIG.model_copy(update={"train": (jsonl(rows),)})
    return prepare_corpus(config, tmp_path / "corpus", tokenizer=marked, seed=1)


def test_a_whole_split_has_the_digest_that_its_manifest_knows(corpus: Corpus) -> None:
    assert digest_of(corpus.train) == corpus.manifest["rows"]["train"]
    kept_in_order = corpus.train.select([0, 1, 2, 3])
    assert digest_of(kept_in_order) == corpus.manifest["rows"]["train"]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_rows_that_are_chosen_from_a_split_have_a_digest_and_tokens_of_their_own(
    corpus: Corpus, marked: Any, order: list[int]
) -> None:
    chosen = corpus.train.select(order)
    assert digest_of(chosen) != digest_of(corpus.train)
    whole, some = (tokenize_dataset(rows, marked, CONFIG) for rows in (corpus.train, chosen))
    assert list(some["origin"]) == [whole[at]["origin"] for at in order]
    assert list(some["input_ids"]) == [whole[at]["input_ids"] for at in order]
