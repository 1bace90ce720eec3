"""score: every row is rated by the model's own loss and entropy; the worst are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ytrainer_core.config import ScoreStageConfig
from ytrainer_core.data.corpus import Corpus, raw_text, rewrite_train
from ytrainer_core.data.formats import Rejected
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import ConfigError
from ytrainer_core.scoring.judged import JudgedCorpus, judge_corpus
from ytrainer_core.scoring.quality import corpus_statistics
from ytrainer_core.scoring.signals import RowSignals
from ytrainer_core.scoring.table import ScoredLine, write_scores
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import base_of, corpus_for
from ytrainer_core.stages.score_models import key_of, read_as_it_is, read_out_of_fold
from ytrainer_core.stages.score_pages import Scored, write_pages
from ytrainer_core.training.model import CARD_NAME, load_model, load_trained, locate

_LISTED_ROWS = 10
_SNIPPET_CHARACTERS = 60


def score(config: ScoreStageConfig, context: StageContext) -> StageResult:
    """Read every row once; write scores, the corpus without dropped rows, and the report."""
    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config, context, tokenizer)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    if config.score.folds:
        reading = read_out_of_fold(config, context, corpus, rows, folder)
    else:
        model = load_model(folder, config.model)
        key = key_of(config, corpus, tokenizer, folder)
        reading = read_as_it_is(config, rows, model, key)
    statistics = corpus_statistics(reading.signals, reading.vocabulary)
    judged = judge_corpus(reading.signals, statistics, config.score)
    flagged, threshold = judged.flagged(config.score)
    dropped = flagged & (config.score.action == "drop")
    keep = np.flatnonzero(~dropped).tolist()
    rewrite_train(corpus, context.outputs["dataset"], keep, _rejected(corpus, judged, dropped))
    lines = _lines(corpus, reading.signals, judged, flagged, keep)
    write_scores(context.outputs["scores"], lines, [*judged.scores])
    scored = Scored(config, tokenizer, rows, reading, statistics, judged, flagged, threshold)
    second = _second(config, corpus, rows, tokenizer) if config.score.compare_with else None
    write_pages(context.outputs["report"], scored, second)
    worst = judged.worst().tolist()
    reader = "fold" if config.score.folds else "base"
    return StageResult(
        metrics={
            "rows_scored": float(len(rows)),
            "rows_flagged": float(flagged.sum()),
            "rows_dropped": float(dropped.sum()),
            f"{reader}_target_loss": statistics.nll_mean,
            f"{reader}_target_entropy": statistics.entropy_mean,
        },
        values={"flagged": [corpus.train[i]["origin"] for i in worst if flagged[i]]},
        summary={
            "rows scored": f"{len(rows):,} by {config.score.method}" + _told(config.score.folds),
            "rows flagged": f"{flagged.sum():,} ({config.score.action})",
            "most suspicious": "\n".join(
                _listed(corpus.train[i], judged.score[i]) for i in worst[:_LISTED_ROWS]
            ),
        },
    )


def _second(
    config: ScoreStageConfig, corpus: Corpus, rows: Any, tokenizer: Any
) -> tuple[str, Sequence[RowSignals]]:
    """(name, signals) of the model that the first is compared with."""
    name = config.score.compare_with
    other = config.model.model_copy(update={"name_or_path": name, "revision": ""})
    folder = locate(other)
    if (folder / CARD_NAME).is_file():
        model, own, _ = load_trained(folder, other)
    else:
        (folder, own), model = base_of(other), load_model(folder, other)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"score.compare_with={name} has another vocabulary than {config.model.name_or_path}, "
            "so their tokens cannot be compared. Name a model that was tuned from it."
        )
    key = key_of(config, corpus, tokenizer, folder)
    return name, read_as_it_is(config, rows, model, key, "score, second model").signals


def _told(folds: int) -> str:
    return f", each by a model tuned on the other {folds - 1}/{folds} of the rows" if folds else ""


def _rejected(corpus: Corpus, judged: JudgedCorpus, dropped: Any) -> list[Rejected]:
    return [
        Rejected(
            origin=corpus.train[i]["origin"],
            rule="score",
            reason=f"score {judged.score[i]:.3f} is among the worst of the corpus",
            raw=raw_text(corpus.train[i]),
        )
        for i in np.flatnonzero(dropped).tolist()
    ]


def _lines(
    corpus: Corpus,
    signals: Sequence[RowSignals],
    judged: JudgedCorpus,
    flagged: Any,
    keep: Sequence[int],
) -> Iterator[ScoredLine]:
    origins = corpus.train["origin"]
    for i in keep:
        row = signals[i]
        yield ScoredLine(
            origin=origins[i],
            score=float(judged.score[i]),
            flagged=bool(flagged[i]),
            mean_nll=float(judged.mean_nll[i]),
            mean_entropy=float(judged.mean_entropy[i]),
            nll=row.nll,
            entropy=row.entropy,
            scores=judged.scores_of(i),
        )


def _listed(row: Any, score: float) -> str:
    said = " ".join((row["text"] or row["messages"][-1]["content"]).split())
    snippet = said if len(said) <= _SNIPPET_CHARACTERS else f"{said[:_SNIPPET_CHARACTERS]}…"
    return f"{score:8.3f}  {row['origin']}  {snippet}"


STAGE = Stage(
    "score",
    ScoreStageConfig,
    score,
    ("dataset",),
    {"dataset": "dataset", "scores": "artifact", "report": "html"},
)
