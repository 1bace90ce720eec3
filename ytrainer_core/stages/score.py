"""score: every row is rated by the model's own loss and entropy; the worst are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ytrainer_core import __version__
from ytrainer_core.config import ScoreStageConfig
from ytrainer_core.data.corpus import Corpus, digest_of, raw_text, rewrite_train
from ytrainer_core.data.formats import Rejected
from ytrainer_core.data.tokenize import token_path, tokenize_dataset
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import forget_old, home, sha256_folder, sha256_json
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.objectives.head import vocab_size
from ytrainer_core.scoring.judged import JudgedCorpus, judge_corpus
from ytrainer_core.scoring.quality import corpus_statistics
from ytrainer_core.scoring.store import SignalTable, score_rows
from ytrainer_core.scoring.table import ScoredLine, write_scores
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import base_of, corpus_for
from ytrainer_core.stages.score_pages import Scored, write_pages
from ytrainer_core.training.model import CARD_NAME, load_model, load_trained, locate

_LISTED_ROWS = 10
_SNIPPET_CHARACTERS = 60


def score(config: ScoreStageConfig, context: StageContext) -> StageResult:
    """One forward pass; write scores, the corpus without dropped rows, and the report."""
    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config, context, tokenizer)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    model = load_model(folder, config.model)
    signals = _signals(config, corpus, rows, tokenizer, model, folder, "score")
    statistics = corpus_statistics(signals, vocab_size(causal_lm(model)))
    judged = judge_corpus(signals, statistics, config.score)
    flagged, threshold = judged.flagged(config.score)
    dropped = flagged & (config.score.action == "drop")
    keep = np.flatnonzero(~dropped).tolist()
    rewrite_train(corpus, context.outputs["dataset"], keep, _rejected(corpus, judged, dropped))
    lines = _lines(corpus, signals, judged, flagged, keep)
    write_scores(context.outputs["scores"], lines, [*judged.scores])
    scored = Scored(config, tokenizer, model, rows, signals, statistics, judged, flagged, threshold)
    second = _second(config, corpus, rows, tokenizer) if config.score.compare_with else None
    write_pages(context.outputs["report"], scored, second)
    worst = judged.worst().tolist()
    return StageResult(
        metrics={
            "rows_scored": float(len(rows)),
            "rows_flagged": float(flagged.sum()),
            "rows_dropped": float(dropped.sum()),
            "base_target_loss": statistics.nll_mean,
            "base_target_entropy": statistics.entropy_mean,
        },
        values={"flagged": [corpus.train[i]["origin"] for i in worst if flagged[i]]},
        summary={
            "rows scored": f"{len(rows):,} by {config.score.method}",
            "rows flagged": f"{flagged.sum():,} ({config.score.action})",
            "most suspicious": "\n".join(
                _listed(corpus.train[i], judged.score[i]) for i in worst[:_LISTED_ROWS]
            ),
        },
    )


def _signals(
    config: ScoreStageConfig,
    corpus: Corpus,
    rows: Any,
    tokenizer: Any,
    model: Any,
    folder: Path,
    title: str,
) -> SignalTable:
    """The signals of the training rows; those that an earlier run of the same left are found."""
    tokens = token_path(digest_of(corpus.train), tokenizer, config.data).stem
    of_model = [sha256_folder(folder), str(causal_lm(model).dtype)]
    key = sha256_json([__version__, tokens, of_model, config.data.max_length])
    cache = home() / "cache" / "signals"
    forget_old(cache)
    return score_rows(
        model,
        rows,
        cache,
        key=key,
        max_length=config.data.max_length,
        batch_tokens=config.score.batch_tokens,
        free=config.score.ifd or config.score.method == "ifd",
        title=title,
    )


def _second(
    config: ScoreStageConfig, corpus: Corpus, rows: Any, tokenizer: Any
) -> tuple[str, SignalTable]:
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
    return name, _signals(config, corpus, rows, tokenizer, model, folder, "score, second model")


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
    corpus: Corpus, signals: SignalTable, judged: JudgedCorpus, flagged: Any, keep: Sequence[int]
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
