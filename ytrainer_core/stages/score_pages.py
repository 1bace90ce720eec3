"""Fill the score report: the worst rows token by token, and a second model beside the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import NlirgConfig, ScoreStageConfig
from ytrainer_core.reports.score import (
    ComparedRow,
    ComparedToken,
    Comparison,
    ScoredRow,
    ScoredToken,
    ScoreReport,
    token_texts,
    write_score_report,
)
from ytrainer_core.scoring.judged import JudgedCorpus
from ytrainer_core.scoring.quality import CorpusStatistics, row_quality
from ytrainer_core.scoring.signals import RowSignals
from ytrainer_core.stages.common import REPORT_TOKENS, weight_curve
from ytrainer_core.stages.score_models import Expected, Reading

_SHOWN_ROWS = 30
_WORSE_ROWS = 10
"""Rows that became less likely are shown too, so many of them at least."""


@dataclass(frozen=True)
class Scored:
    """A corpus that was scored. rows: as tokenized; flagged: [rows]; threshold: of the flag."""

    config: ScoreStageConfig
    tokenizer: Any
    rows: Any
    reading: Reading
    statistics: CorpusStatistics
    judged: JudgedCorpus
    flagged: npt.NDArray[np.bool_]
    threshold: float


def write_pages(
    path: Path, scored: Scored, second: tuple[str, Sequence[RowSignals]] | None
) -> None:
    """Write the report. second: (name, signals) of the model to compare with."""
    judged = scored.judged
    worst = judged.worst()[:_SHOWN_ROWS].tolist()
    expected = scored.reading.expected(worst)
    targets = max(1, sum(judged.patterns.values()))
    step = max(1, targets // REPORT_TOKENS)
    write_score_report(
        path,
        ScoreReport(
            title="Corpus quality",
            method=scored.config.score.method,
            rows=[_scored_row(scored, *shown) for shown in zip(worst, expected, strict=True)],
            scores=judged.score.tolist(),
            flag_threshold=scored.threshold,
            nll=_every(step, (row.nll for row in scored.reading.signals)),
            weight_curve=weight_curve(NlirgConfig()),
            patterns={name: count / targets for name, count in judged.patterns.items()},
            comparison=_comparison(scored, *second) if second else None,
        ),
    )


def _every(step: int, rows: Iterable[npt.NDArray[np.float32]]) -> list[float]:
    """Every step-th value of all rows, one after the other."""
    found: list[float] = []
    seen = 0
    for row in rows:
        found += row[-seen % step :: step].tolist()
        seen += len(row)
    return found


def _scored_row(scored: Scored, i: int, expected: Expected) -> ScoredRow:
    row, signals = scored.rows[i], scored.reading.signals[i]
    prompt, texts = _texts(scored.tokenizer, row["input_ids"], signals)
    tokens = [
        ScoredToken(
            text=text,
            nll=float(nll),
            entropy=float(entropy),
            expected=[(scored.tokenizer.decode([token]), share) for token, share in likely],
            before=before,
        )
        for (before, text), nll, entropy, likely in zip(
            texts, signals.nll, signals.entropy, expected, strict=True
        )
    ]
    return ScoredRow(
        origin=row["origin"],
        score=float(scored.judged.score[i]),
        flagged=bool(scored.flagged[i]),
        prompt=prompt,
        tokens=tokens,
        spans=row_quality(signals, scored.statistics, scored.config.score).spans,
        scores=scored.judged.scores_of(i),
    )


def _texts(
    tokenizer: Any, ids: Sequence[int], signals: RowSignals
) -> tuple[str, list[tuple[str, str]]]:
    """(prompt, (untrained text before it, text) of each target) of a row."""
    texts = token_texts(partial(tokenizer.decode, clean_up_tokenization_spaces=False), ids)
    positions = signals.positions.tolist()
    begins = [0, *(at + 1 for at in positions)]
    before = ["".join(texts[a:b]) for a, b in zip(begins, positions, strict=False)]
    prompt = before[0] if before else "".join(texts)
    return prompt, [
        (b if at else "", texts[p]) for at, (b, p) in enumerate(zip(before, positions, strict=True))
    ]


def _comparison(scored: Scored, name: str, second: Sequence[RowSignals]) -> Comparison:
    """Both models on all rows; shown are those whose mean loss changed most, either way."""
    base, tuned = (
        np.array([row.nll.mean() if len(row.nll) else np.nan for row in table])
        for table in (scored.reading.signals, second)
    )
    change = np.nan_to_num(tuned - base)
    shown = {*np.argsort(-np.abs(change), kind="stable")[:_SHOWN_ROWS].tolist()}
    shown |= {i for i in np.argsort(-change, kind="stable")[:_WORSE_ROWS].tolist() if change[i] > 0}
    step = max(1, sum(scored.judged.patterns.values()) // REPORT_TOKENS)
    both = zip(scored.reading.signals, second, strict=True)
    return Comparison(
        base=scored.config.model.name_or_path,
        tuned=name,
        rows=[_compared_row(scored, second[i], i) for i in sorted(shown)],
        base_nll=base.tolist(),
        tuned_nll=tuned.tolist(),
        token_changes=_every(step, (after.nll - before.nll for before, after in both)),
    )


def _compared_row(scored: Scored, tuned: RowSignals, i: int) -> ComparedRow:
    row, base = scored.rows[i], scored.reading.signals[i]
    prompt, texts = _texts(scored.tokenizer, row["input_ids"], base)
    return ComparedRow(
        origin=row["origin"],
        prompt=prompt,
        tokens=[
            ComparedToken(text, float(b), float(t), before)
            for (before, text), b, t in zip(texts, base.nll, tuned.nll, strict=True)
        ],
    )
