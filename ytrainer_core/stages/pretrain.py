"""pretrain: a small model from scratch, tokenizer included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ytrainer_core.config import PretrainConfig
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import corpus_for, record_lineage
from ytrainer_core.stages.train import train_and_save
from ytrainer_core.training.model import BaseReference
from ytrainer_core.training.scratch import new_model, train_tokenizer


def pretrain(config: PretrainConfig, context: StageContext) -> StageResult:
    """Learn a tokenizer, make a model, train every token."""
    corpus = corpus_for(config.data, context, None, config.seed)
    record_lineage(corpus, context)
    tokenizer = train_tokenizer(_texts(corpus.train), config.architecture)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    held_out = tokenize_dataset(corpus.validation, tokenizer, config.data)
    model = new_model(config.architecture, tokenizer, config.seed)
    return train_and_save(
        config,
        context,
        model,
        tokenizer,
        rows,
        eval_rows=held_out,
        kind="full",
        base=BaseReference("", "", ""),
        data_sha256=corpus.manifest["sha256"],
    )


def _texts(dataset: Any) -> Iterator[str]:
    for row in dataset:
        yield row["text"]
        for message in row["messages"]:
            yield message["content"]


STAGE = Stage(
    "pretrain", PretrainConfig, pretrain, ("dataset",), {"model": "model", "report": "html"}
)
