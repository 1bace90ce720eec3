"""pretrain: a small model from scratch, tokenizer included."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from ytrainer_core import __version__
from ytrainer_core.config import PretrainConfig
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.files import atomic_folder, sha256_json
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import corpus_for, record_lineage
from ytrainer_core.stages.train import finish
from ytrainer_core.training.checkpoints import checkpoint_root, exclusive, training_key
from ytrainer_core.training.engine import TrainJob, train
from ytrainer_core.training.model import (
    PROBE_ROWS,
    BaseReference,
    ModelCard,
    compute_dtype,
    probe_batch,
    save_trained,
)
from ytrainer_core.training.scratch import new_model, train_tokenizer


def pretrain(config: PretrainConfig, context: StageContext) -> StageResult:
    """Learn a tokenizer, make a model, train every token."""
    corpus = corpus_for(config.data, context, None, config.seed)
    record_lineage(corpus, context)
    tokenizer = train_tokenizer(_texts(corpus.train), config.architecture)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    held_out = tokenize_dataset(corpus.validation, tokenizer, config.data)
    model = new_model(config.architecture, tokenizer, config.seed)
    dtype = compute_dtype(config.model.dtype)
    job = TrainJob(config.data, config.objective, config.optim, config.train, config.seed, dtype)
    data_sha256 = corpus.manifest["sha256"]
    key = training_key(config.model_dump(mode="json"), None, data_sha256, "")
    with exclusive(checkpoint_root(key)) as checkpoints:
        result = train(
            model,
            tokenizer,
            rows,
            job,
            checkpoints=checkpoints,
            log=context.log,
            eval_rows=held_out,
            title="pre-training",
        )
        card = ModelCard(
            kind="full",
            base=BaseReference("", "", sha256_json(config.architecture.model_dump(mode="json"))),
            dtype="float32",
            data_sha256=data_sha256,
            run_id=context.run.run_id,
            ytrainer_version=__version__,
            config=config.model_dump(mode="json"),
        )
        first = [row["input_ids"] for row in rows.select(range(min(PROBE_ROWS, len(rows))))]
        with atomic_folder(context.outputs["model"]) as scratch:
            save_trained(model, tokenizer, scratch, card, probe_batch(first, len(tokenizer)))
        shutil.rmtree(checkpoints)
    return finish(config, context, model, result)


def _texts(dataset: Any) -> Iterator[str]:
    for row in dataset:
        yield row["text"]
        for message in row["messages"]:
            yield message["content"]


STAGE = Stage(
    "pretrain", PretrainConfig, pretrain, ("dataset",), {"model": "model", "report": "html"}
)
