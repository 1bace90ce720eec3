"""Fill the evaluation report: scores of all models, their answers, and the rows that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import NlirgConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.evaluation.gate import Contest
from ytrainer_core.evaluation.intervals import Difference, Estimate
from ytrainer_core.evaluation.measure import Exam, Measurement
from ytrainer_core.evaluation.metrics import Statistics, group_of, metric_of
from ytrainer_core.evaluation.tasks import exact_match
from ytrainer_core.evaluation.verdict import Verdict
from ytrainer_core.reports.comparison import ComparedRow, ComparedToken, Comparison
from ytrainer_core.reports.evaluate import (
    BASE,
    CHALLENGER,
    CHAMPION,
    EvaluateReport,
    Generation,
    MetricLine,
    write_evaluate_report,
)
from ytrainer_core.reports.token_text import token_texts
from ytrainer_core.scoring.signals import Floats
from ytrainer_core.stages.common import REPORT_TOKENS, weight_curve

_SHOWN_ROWS = 8
"""Rows of either direction that are shown token by token."""

_EXACT = "exact_match"
_NONE: Floats = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Judged:
    """A contest with its verdict and all that is told of it, by model.

    estimates: every metric of every model. differences: the challenger minus base, champion.
    """

    contest: Contest
    verdict: Verdict
    names: Mapping[str, str]
    estimates: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]

    @classmethod
    def of(
        cls, contest: Contest, verdict: Verdict, statistics: Statistics, names: Mapping[str, str]
    ) -> Judged:
        """Compute the intervals of everything."""
        sides = contest.sides
        others = {model: scores for model, scores in sides.items() if model != CHALLENGER}
        return cls(
            contest,
            verdict,
            names,
            {model: statistics.estimates(scores) for model, scores in sides.items()},
            {
                model: statistics.differences(contest.challenger, scores)
                for model, scores in others.items()
            },
        )


def write_pages(
    path: Path,
    judged: Judged,
    measured: Mapping[str, Measurement],
    exam: Exam,
    tokenizer: Any,
) -> None:
    """Write the report. measured: by model."""
    before, after = (np.concatenate(measured[m].nll or [_NONE]) for m in (BASE, CHALLENGER))
    stride = max(1, len(after) // REPORT_TOKENS)
    metric = _EXACT if _EXACT in exam.answer_metrics else next(iter(exam.answer_metrics), _EXACT)
    write_evaluate_report(
        path,
        EvaluateReport(
            title="Evaluation",
            verdict=judged.verdict.passed,
            reasons=judged.verdict.reasons,
            names=judged.names,
            metrics=_lines(judged),
            generations=_generations(measured, exam, metric),
            right_by=metric.replace("_", " "),
            comparison=_comparison(judged, measured, exam, tokenizer),
            nll_base=before[::stride].tolist(),
            nll_tuned=after[::stride].tolist(),
            weight_curve=weight_curve(NlirgConfig()),
        ),
    )


def _lines(judged: Judged) -> list[MetricLine]:
    lines = []
    for name in judged.estimates[CHALLENGER]:
        metric = metric_of(name)
        values = {m: found[name] for m, found in judged.estimates.items() if name in found}
        against = {m: found[name] for m, found in judged.differences.items() if name in found}
        shown, group = name.replace("_", " "), group_of(name)
        lines.append(
            MetricLine(
                shown, group, metric.better, metric.unit, metric.description, values, against
            )
        )
    groups = list(dict.fromkeys(line.group for line in lines))
    return sorted(lines, key=lambda line: groups.index(line.group))


def _generations(measured: Mapping[str, Measurement], exam: Exam, metric: str) -> list[Generation]:
    is_right = exam.answer_metrics.get(metric, exact_match)
    shown = []
    for i, question in enumerate(exam.questions):
        answers = {model: found.answers[i] for model, found in measured.items()}
        right = {m: is_right(said, question.expected) >= 1 for m, said in answers.items()}
        shown.append(Generation(question.prompt, question.expected, answers, right))
    return shown


def _comparison(
    judged: Judged, measured: Mapping[str, Measurement], exam: Exam, tokenizer: Any
) -> Comparison | None:
    """The challenger beside the model it would replace; None where that reads other tokens."""
    replaced = CHAMPION if CHAMPION in measured else BASE
    before, after = measured[replaced].nll, measured[CHALLENGER].nll
    if not before:
        return None
    means_before, means_after = _means(before), _means(after)
    change = np.nan_to_num(means_after - means_before)
    order = np.argsort(change, kind="stable")
    chosen = dict.fromkeys([*order[:_SHOWN_ROWS].tolist(), *order[::-1][:_SHOWN_ROWS].tolist()])
    tokens = np.concatenate(after) - np.concatenate(before)
    stride = max(1, len(tokens) // REPORT_TOKENS)
    return Comparison(
        base=judged.names[replaced],
        tuned=judged.names[CHALLENGER],
        rows=[_compared(exam.target[i], before[i], after[i], tokenizer) for i in chosen],
        base_nll=means_before.tolist(),
        tuned_nll=means_after.tolist(),
        token_changes=tokens[::stride].tolist(),
    )


def _means(rows: Sequence[Floats]) -> npt.NDArray[np.float64]:
    return np.array([row.mean(dtype=np.float64) if len(row) else np.nan for row in rows])


def _compared(
    row: Mapping[str, Any],
    before: Floats,
    after: Floats,
    tokenizer: Any,
) -> ComparedRow:
    """A row's answer tokens with both losses; what stands between two of them is kept as text."""
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    texts = token_texts(decode, row["input_ids"])
    targets = (np.flatnonzero(np.asarray(row["labels"][1:]) != IGNORED) + 1).tolist()
    begins = [0, *(at + 1 for at in targets)]
    between = ["".join(texts[a:b]) for a, b in zip(begins, targets, strict=False)]
    return ComparedRow(
        origin=row["origin"],
        prompt=between[0] if between else "".join(texts),
        tokens=[
            ComparedToken(texts[at], float(b), float(a), between[i] if i else "")
            for i, (at, b, a) in enumerate(zip(targets, before, after, strict=True))
        ],
    )
