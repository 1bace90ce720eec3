"""What several stages do alike: get the corpus, tokenize it, name the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ytrainer_core.config import DataConfig, ModelConfig, NlirgConfig
from ytrainer_core.data.corpus import Corpus, load_corpus
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.stages.base import StageContext
from ytrainer_core.training.model import load_tokenizer, locate

REPORT_TOKENS = 100_000
"""Token losses that go into a report's histogram at most."""


def base_of(config: ModelConfig) -> tuple[Path, Any]:
    """(folder, tokenizer) of the base model."""
    folder = locate(config)
    return folder, load_tokenizer(folder, trust_remote_code=config.trust_remote_code)


def corpus_for(data: DataConfig, context: StageContext, tokenizer: Any, seed: int) -> Corpus:
    """The corpus that validate made, or, for a stage run on its own, one made now.

    It then lies beside the stage's outputs, so that what was quarantined can be seen.
    """
    given = context.path("dataset")
    if given:
        return load_corpus(given)
    beside = next(iter(context.outputs.values())).parent / "dataset"
    return prepare_corpus(data, beside, tokenizer=tokenizer, seed=seed)


def record_lineage(corpus: Corpus, context: StageContext) -> None:
    """Tell MLflow which files this run read, each with its sha256."""
    for source in corpus.manifest["sources"]:
        path = Path(source["path"])
        context.run.dataset(path.name, path, source["sha256"], source["split"])


def weight_curve(config: NlirgConfig) -> list[tuple[float, float]]:
    """Points (nll in nats, NLIRG weight) to draw over a histogram of token losses."""
    import torch

    from ytrainer_core.objectives.nlirg import nlirg_weights

    nll = torch.linspace(0, config.cutoff, 151)
    return list(zip(nll.tolist(), nlirg_weights(nll, config).tolist(), strict=True))
