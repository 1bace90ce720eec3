"""Who reads the rows of the score stage: the model as it is, or models tuned on other rows.

A row that a model was tuned on says nothing of that row: what is wrong in it was learned. So with
score.folds the rows are dealt into folds, and each is read by a model tuned on all the others, as
confident learning does it (Northcutt et al. 2021, arXiv 1911.00068: out-of-sample
probabilities by cross-validation). Such a training is one of the sft stage's on part of the rows:
it goes on after a kill, and is found again when it was finished before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core import __version__
from ytrainer_core.config import LaunchConfig, ObjectiveConfig, ScoreStageConfig, SftConfig
from ytrainer_core.data.corpus import Corpus, digest_of
from ytrainer_core.data.tokenize import token_path
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import forget_old, home, sha256_folder, sha256_json
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.objectives.head import vocab_size
from ytrainer_core.scoring.folds import FoldedSignals, dealt
from ytrainer_core.scoring.signals import RowSignals, expected_tokens
from ytrainer_core.scoring.store import SignalTable, score_rows
from ytrainer_core.stages.base import StageContext
from ytrainer_core.stages.train import base_reference, done_once
from ytrainer_core.training.checkpoints import Work
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.model import load_trained
from ytrainer_core.training.work import TrainingTask, perform

EXPECTED = 3
"""Tokens that a model expected in place of one of a shown row."""

Expected = list[list[tuple[int, float]]]
"""[targets][EXPECTED] of (token, probability), likeliest first."""


@dataclass(frozen=True)
class Reading:
    """What was read in a corpus. signals: [rows]. vocabulary: entries the models choose from.

    expected(rows): what was expected at every target of these rows, in their order.
    """

    signals: Sequence[RowSignals]
    vocabulary: int
    expected: Callable[[Sequence[int]], list[Expected]]


def read_as_it_is(
    config: ScoreStageConfig, rows: Any, model: Any, key: Sequence[Any], title: str = "score"
) -> Reading:
    """All rows, read by one model. key: what names model and rows."""
    signals = _signals(config, rows, model, key, title)

    def expected(wanted: Sequence[int]) -> list[Expected]:
        limit = config.data.max_length
        return [expected_tokens(model, rows[i], EXPECTED, limit) for i in wanted]

    return Reading(signals, vocab_size(causal_lm(model)), expected)


def key_of(config: ScoreStageConfig, corpus: Corpus, tokenizer: Any, folder: Path) -> list[Any]:
    """What names a corpus as it is tokenized, and the model in `folder`."""
    tokens = token_path(digest_of(corpus.train), tokenizer, config.data).stem
    return [tokens, sha256_folder(folder)]


def _signals(
    config: ScoreStageConfig, rows: Any, model: Any, key: Sequence[Any], title: str
) -> SignalTable:
    """The signals of rows; those that an earlier run of the same left are found."""
    cache = home() / "cache" / "signals"
    forget_old(cache)
    named = [__version__, *key, str(causal_lm(model).dtype), config.data.max_length]
    return score_rows(
        model,
        rows,
        cache,
        key=sha256_json(named),
        max_length=config.data.max_length,
        batch_tokens=config.score.batch_tokens,
        free=config.score.ifd or config.score.method == "ifd",
        title=title,
    )


def read_out_of_fold(
    config: ScoreStageConfig, context: StageContext, corpus: Corpus, rows: Any, base: Path
) -> Reading:
    """Every row, read by a model tuned from `base` on the rows of the other folds.

    Raises ConfigError where there are fewer rows than folds.
    """
    folds = config.score.folds
    if len(rows) < folds:
        raise ConfigError(
            f"score.folds={folds} needs as many rows at least, and the corpus has {len(rows)}. "
            "Set score.folds=0."
        )
    fold_of = dealt(len(rows), folds, config.seed)
    models, tables = [], []
    vocabulary = 0
    for fold in range(folds):
        title = f"fold {fold + 1} of {folds}"
        work, folder = _tuned(config, context, corpus, base, np.flatnonzero(fold_of != fold), fold)
        model = _loaded(config, folder)
        mine = rows.select(np.flatnonzero(fold_of == fold))
        tables.append(_signals(config, mine, model, [work.key], f"score, {title}"))
        models.append(folder)
        vocabulary = vocab_size(causal_lm(model))
        del model
        gc.collect()  # before the next one is loaded

    def expected(wanted: Sequence[int]) -> list[Expected]:
        found: dict[int, Expected] = {}
        for fold, folder in enumerate(models):
            of_fold = [i for i in wanted if fold_of[i] == fold]
            model = _loaded(config, folder) if of_fold else None
            for i in of_fold:
                found[i] = expected_tokens(model, rows[i], EXPECTED, config.data.max_length)
        return [found[i] for i in wanted]

    return Reading(FoldedSignals(fold_of, tables), vocabulary, expected)


def _tuned(
    config: ScoreStageConfig,
    context: StageContext,
    corpus: Corpus,
    base: Path,
    numbers: npt.NDArray[np.int64],
    fold: int,
) -> tuple[Work, Path]:
    """(the training on these rows, the folder of its model), trained now where it is not there."""
    tuning = tuning_of(config)
    reference = base_reference(config.model, base)
    chosen = numbers.tolist()
    work = Work.of(
        "sft", tuning.model_dump(mode="json"), chosen, corpus.manifest["sha256"], reference.sha256
    )
    cache = home() / "cache" / "folds"
    forget_old(cache)
    folder = cache / work.key
    place = replace(
        context, inputs={}, outputs={"model": folder / "model", "epochs": folder / "epochs"}
    )
    do = partial(_train, name=f"fold_{fold + 1}_")
    done_once(tuning, place, work, corpus, reference, lambda root: base, do, rows=chosen)
    return work, folder / "model"


def tuning_of(config: ScoreStageConfig) -> SftConfig:
    """As the sft stage would tune a model, but on the rows alone, and on every token of them.

    What is trained along, to forget less, would cost time and tell nothing of the rows, and an
    earlier model may have been trained on the very rows. An objective that leaves hopeless tokens
    out, as NLIRG does, would let them look strange in every row.
    """
    return SftConfig(
        tracking=config.tracking,
        seed=config.seed,
        model=config.model.model_copy(update={"init_from": ""}),
        data=config.data.model_copy(update={"replay_ratio": 0.0, "earlier_ratio": 0.0}),
        objective=ObjectiveConfig(name="cross_entropy"),
        optim=config.optim,
        lora=config.lora,
        train=config.train.model_copy(update={"save_epochs": ()}),
        launch=LaunchConfig(),
    )


def _train(task: TrainingTask, launch: LaunchConfig, log: Log, *, name: str) -> TrainResult:
    """Do the work in this process. name: comes before the names of its metrics."""

    def log_of_fold(metrics: Mapping[str, float], step: int) -> None:
        log({f"{name}{metric}": value for metric, value in metrics.items()}, step)

    return perform(task, log_of_fold)


def _loaded(config: ScoreStageConfig, folder: Path) -> Any:
    model, _, _ = load_trained(folder, config.model)
    return model
