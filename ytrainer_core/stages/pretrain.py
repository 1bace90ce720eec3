"""pretrain: a small model from scratch, tokenizer included."""

from __future__ import annotations

from pathlib import Path

from ytrainer_core.config import PretrainConfig
from ytrainer_core.data.corpus import row_texts
from ytrainer_core.files import atomic_folder
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import corpus_for, record_lineage
from ytrainer_core.stages.train import check_nodes, train_and_deliver
from ytrainer_core.training.checkpoints import Work
from ytrainer_core.training.model import BaseReference
from ytrainer_core.training.scratch import new_model, train_tokenizer

INITIAL_NAME = "initial"
"""Folder of the untrained model beside the checkpoints: every process starts from it."""


def pretrain(config: PretrainConfig, context: StageContext) -> StageResult:
    """Learn a tokenizer, make a model, train every token."""
    check_nodes(config.launch)
    corpus = corpus_for(config, context, None)
    record_lineage(corpus, context)
    resolved = config.model_dump(mode="json")
    work = Work.of("pretrain", resolved, None, corpus.manifest["sha256"], "")

    def initial(root: Path) -> Path:
        folder = root / INITIAL_NAME
        if not folder.exists():
            tokenizer = train_tokenizer(row_texts(corpus.train), config.architecture)
            with atomic_folder(folder) as scratch:
                new_model(config.architecture, tokenizer, config.seed).save_pretrained(scratch)
                tokenizer.save_pretrained(scratch)
        return folder

    nothing = BaseReference("", "", "")
    return train_and_deliver(config, context, work, corpus, nothing, initial)


STAGE = Stage(
    "pretrain",
    PretrainConfig,
    pretrain,
    ("dataset",),
    {"model": "model", "report": "html", "epochs": "artifact"},
)
