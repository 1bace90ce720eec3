"""score: every row is rated by the model's own loss and entropy; the worst are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ytrainer_core.config import NlirgConfig, ScoreStageConfig
from ytrainer_core.data.corpus import raw_text, rewrite_train
from ytrainer_core.data.formats import Rejected
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.reports.score import ScoredRow, ScoredToken, ScoreReport, write_score_report
from ytrainer_core.scoring.quality import (
    PATTERNS,
    RowQuality,
    corpus_statistics,
    flag_threshold,
    row_quality,
)
from ytrainer_core.scoring.signals import RowSignals, token_signals
from ytrainer_core.scoring.table import write_scores
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import REPORT_TOKENS, base_of, corpus_for, weight_curve
from ytrainer_core.training.model import load_model

_SHOWN_ROWS = 30
_LISTED_ROWS = 10


def score(config: ScoreStageConfig, context: StageContext) -> StageResult:
    """One forward pass; write scores, the corpus without dropped rows, and the report."""
    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config, context, tokenizer)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    model = load_model(folder, config.model)
    signals = token_signals(
        model,
        rows,
        max_length=config.data.max_length,
        batch_tokens=config.score.batch_tokens,
        title="score",
    )
    statistics = corpus_statistics(signals)
    quality = [row_quality(row, statistics, config.score) for row in signals]
    threshold = flag_threshold([q.score for q in quality], config.score.flag_fraction)
    if config.score.action == "keep":
        threshold = float("inf")
    flagged = [q.score >= threshold for q in quality]
    dropped = flagged if config.score.action == "drop" else [False] * len(flagged)
    keep = [i for i, drop in enumerate(dropped) if not drop]
    rewrite_train(corpus, context.outputs["dataset"], keep, _rejected(corpus, quality, dropped))
    origins = corpus.train["origin"]
    write_scores(context.outputs["scores"], keep, origins, signals, quality, flagged)
    worst = sorted(range(len(quality)), key=lambda i: -quality[i].score)
    _write_report(context, config, tokenizer, rows, signals, quality, flagged, threshold, worst)
    return StageResult(
        metrics={
            "rows_scored": float(len(rows)),
            "rows_flagged": float(sum(flagged)),
            "rows_dropped": float(sum(dropped)),
            "base_target_loss": statistics.nll_mean,
            "base_target_entropy": statistics.entropy_mean,
        },
        values={"flagged": [origins[i] for i in worst if flagged[i]]},
        summary={
            "rows scored": f"{len(rows):,} by {config.score.method}",
            "rows flagged": f"{sum(flagged):,} ({config.score.action})",
            "most suspicious": "\n".join(
                f"{quality[i].score:8.3f}  {origins[i]}" for i in worst[:_LISTED_ROWS]
            ),
        },
    )


def _rejected(
    corpus: Any, quality: Sequence[RowQuality], dropped: Sequence[bool]
) -> list[Rejected]:
    return [
        Rejected(
            origin=corpus.train[i]["origin"],
            rule="score",
            reason=f"score {quality[i].score:.3f} is among the worst of the corpus",
            raw=raw_text(corpus.train[i]),
        )
        for i, drop in enumerate(dropped)
        if drop
    ]


def _write_report(
    context: StageContext,
    config: ScoreStageConfig,
    tokenizer: Any,
    rows: Any,
    signals: Sequence[RowSignals],
    quality: Sequence[RowQuality],
    flagged: Sequence[bool],
    threshold: float,
    worst: Sequence[int],
) -> None:
    shares = Counter(int(p) for q in quality for p in q.patterns)
    total = max(1, sum(shares.values()))
    shown = []
    for i in worst[:_SHOWN_ROWS]:
        ids, row = rows[i]["input_ids"], signals[i]
        first = int(row.positions[0]) if len(row.positions) else len(ids)
        tokens = [
            ScoredToken(tokenizer.decode([ids[at]]), float(n), float(h), tokenizer.decode([int(e)]))
            for at, n, h, e in zip(row.positions, row.nll, row.entropy, row.expected, strict=True)
        ]
        shown.append(
            ScoredRow(
                origin=rows[i]["origin"],
                score=quality[i].score,
                flagged=flagged[i],
                prompt=tokenizer.decode(ids[:first]),
                tokens=tokens,
                spans=quality[i].spans,
            )
        )
    nll = np.concatenate([row.nll for row in signals])
    write_score_report(
        context.outputs["report"],
        ScoreReport(
            title="Corpus quality",
            method=config.score.method,
            rows=shown,
            scores=[q.score for q in quality],
            flag_threshold=threshold,
            nll=nll[:: max(1, len(nll) // REPORT_TOKENS)].tolist(),
            weight_curve=weight_curve(NlirgConfig()),
            patterns={name: shares[i] / total for i, name in enumerate(PATTERNS)},
        ),
    )


STAGE = Stage(
    "score",
    ScoreStageConfig,
    score,
    ("dataset",),
    {"dataset": "dataset", "scores": "artifact", "report": "html"},
)
