"""What several stages do alike: get the corpus, tokenize it, name the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ytrainer_core.config import (
    DataConfig,
    EvaluateStageConfig,
    KtoConfig,
    ModelConfig,
    NlirgConfig,
    PretrainConfig,
    ScoreStageConfig,
    SftConfig,
    ValidateConfig,
)
from ytrainer_core.data.corpus import Corpus, load_corpus
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.reader import find_sources
from ytrainer_core.errors import DataError
from ytrainer_core.stages.base import StageContext
from ytrainer_core.training.model import CARD_NAME, load_tokenizer, locate, read_card

CorpusConfig = (
    ValidateConfig | ScoreStageConfig | SftConfig | KtoConfig | PretrainConfig | EvaluateStageConfig
)
"""Configs of stages that may make a corpus of their own."""

REPORT_TOKENS = 100_000
"""Token losses that go into a report's histogram at most."""


def base_of(config: ModelConfig) -> tuple[Path, Any]:
    """(folder, tokenizer) of the base model."""
    folder = locate(config)
    return folder, load_tokenizer(folder, trust_remote_code=config.trust_remote_code)


def corpus_for(config: CorpusConfig, context: StageContext, tokenizer: Any) -> Corpus:
    """The corpus that validate made, or, for a stage run on its own, one made now.

    It then lies beside the stage's outputs, so that what was quarantined can be seen.
    """
    given = context.path("dataset")
    if given:
        return load_corpus(given)
    beside = next(iter(context.outputs.values())).parent / "dataset"
    return prepare_corpus(data_of(config), beside, tokenizer=tokenizer, seed=config.seed)


def data_of(config: CorpusConfig) -> DataConfig:
    """The data section, with what an earlier model was trained on where training goes on from one.

    The earlier model is model.init_from, or model.name_or_path where we tuned that; its card says
    which sources it saw. Raises DataError where they are not here any more.
    """
    data = config.data
    if data.earlier or not data.earlier_ratio:
        return data
    for name in filter(None, (config.model.init_from, config.model.name_or_path)):
        folder = Path(name).expanduser()
        card = read_card(folder) if (folder / CARD_NAME).is_file() else None
        if card is None or not card.base.name_or_path:  # not ours, or made from scratch
            continue
        names = card.config.get("data", {}).get("train", ())
        try:
            find_sources(names)
        except DataError as error:
            raise DataError(
                *error.faults,
                f"{folder}: was trained on these, and data.earlier_ratio={data.earlier_ratio} "
                "replays some of them. Name in data.earlier where they lie now, or set "
                "data.earlier_ratio=0.",
            ) from error
        return data.model_copy(update={"earlier": tuple(names)})
    return data


def require_answers(corpus: Corpus) -> None:
    """Refuse a corpus with rows that must not, or cannot, be imitated."""
    kinds = corpus.manifest["counts"].get("kinds", {})
    bad, prompts = kinds.get("bad", 0), kinds.get("prompt", 0)
    if bad or prompts:
        raise DataError(
            f"{corpus.folder}: holds {bad} rows whose answer is labelled bad and {prompts} without "
            "an answer, which instruction tuning must not imitate. Validate with data.purpose=sft, "
            "so that they are quarantined."
        )


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
