"""One model measured on everything that is asked of it, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.evaluation.choices import ChoiceRow, choice_accuracy
from ytrainer_core.evaluation.degeneration import degeneration
from ytrainer_core.evaluation.drift import Summaries, distribution_summary, drift
from ytrainer_core.evaluation.generate import generate
from ytrainer_core.evaluation.intervals import Estimate, RowValues, row_means
from ytrainer_core.evaluation.metrics import GENERAL, Measured
from ytrainer_core.evaluation.preferences import Preferences, answer_logps, preference_scores
from ytrainer_core.evaluation.tasks import token_f1
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import Row
from ytrainer_core.scoring.signals import Floats, losses_of

AnswerMetrics = Mapping[str, Callable[[str, str], float]]
"""Name -> f(answer, expected)."""


@dataclass(frozen=True)
class Question:
    """A held-out row to be answered: prompt as token ids and text, and the expected answer.

    prompt: the last question alone, for people. text: what prompt_ids are tokenized from.
    """

    prompt_ids: Sequence[int]
    prompt: str
    expected: str
    text: str = ""


@dataclass(frozen=True)
class Exam:
    """What every model is measured on: the same for all of them.

    target, general: tokenized rows, read in pieces of at most max_length tokens. Without rows
    or questions the metrics that need them are absent.
    """

    target: Sequence[Row]
    general: Sequence[Row]
    questions: Sequence[Question]
    general_questions: Sequence[Question]
    choices: Sequence[ChoiceRow]
    answer_metrics: AnswerMetrics
    max_length: int
    config: EvaluateConfig
    seed: int = 0
    system_prompt: str = ""
    preferences: Preferences | None = None

    def for_other_tokens(self, tokenizer: Any) -> Exam:
        """The same for a model with another vocabulary: without what is counted per token."""

        def reworded(questions: Sequence[Question]) -> list[Question]:
            encode = [tokenizer(q.text, add_special_tokens=False)["input_ids"] for q in questions]
            return [replace(q, prompt_ids=ids) for q, ids in zip(questions, encode, strict=True)]

        return replace(
            self,
            target=(),
            general=(),
            preferences=None,
            questions=reworded(self.questions),
            general_questions=reworded(self.general_questions),
        )

    def drift_rows(self) -> dict[str, list[Row]]:
        """The rows on which token distributions are compared, by target and general."""
        most = self.config.drift_rows
        sets = {"target": self.target, "general": self.general}
        return {
            name: [rows[i] for i in range(min(most, len(rows)))]
            for name, rows in sets.items()
            if most and len(rows)
        }


@dataclass(frozen=True)
class Measurement:
    """What was found out about one model.

    scores: by metric. nll: each target row's losses in nats, [targets of the row]. answers,
    general_answers: as generated. summaries: the token distributions of a base model.
    answer_logps: of the answers that were liked or disliked, [rows], nats.
    """

    scores: dict[str, Measured]
    nll: list[Floats] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    general_answers: list[str] = field(default_factory=list)
    summaries: dict[str, Summaries] = field(default_factory=dict)
    answer_logps: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def measure(
    model: Any, tokenizer: Any, exam: Exam, *, base: Measurement | None = None
) -> Measurement:
    """Measure one model. base: what was measured of its base; None where this is the base."""
    # the harness first: it fails where a task or the network is not there
    scores = _harness(model, tokenizer, exam) if exam.config.lm_eval else {}
    losses, nll = _losses(model, exam)
    scores |= losses
    answers = _answers(model, tokenizer, exam.questions, exam)
    general_answers = _answers(model, tokenizer, exam.general_questions, exam)
    scores |= _compared(exam.answer_metrics, exam.questions, answers)
    general = _compared(exam.answer_metrics, exam.general_questions, general_answers)
    scores |= {GENERAL + name: values for name, values in general.items()}
    if answers:
        scores |= degeneration(answers)
    if exam.choices:
        scores |= _choices(model, tokenizer, exam)
    logps = np.zeros(0)
    if exam.preferences:
        logps = _answer_logps(model, exam, exam.preferences)
        before = logps if base is None else base.answer_logps
        asked = exam.preferences
        scores |= preference_scores(logps - before, asked.liked, paired=asked.paired)
    summaries: dict[str, Summaries] = {}
    if base is None:
        summaries = _summaries(model, exam)
    else:
        scores |= _drift(model, exam, base)
        if general_answers:
            pairs = zip(general_answers, base.general_answers, strict=True)
            agreement = row_means([token_f1(said, before) for said, before in pairs])
            scores["general_answer_agreement"] = agreement
    counted = {name: values for name, values in scores.items() if _counts(values)}
    return Measurement(counted, nll, answers, general_answers, summaries, logps)


def _counts(values: Measured) -> bool:
    """Whether there was anything to measure; rows without a target count nothing."""
    return isinstance(values, Estimate) or bool(values.counts.sum())


def _losses(model: Any, exam: Exam) -> tuple[dict[str, Measured], list[Floats]]:
    """Loss of target and general text, and the target's token losses by row."""
    scores: dict[str, Measured] = {}
    by_set: dict[str, list[Floats]] = {"target": []}
    for name, rows in (("target", exam.target), ("general", exam.general)):
        with Progress(f"{name} loss", len(rows)) as progress:
            losses = losses_of(
                model,
                rows,
                max_length=exam.max_length,
                batch_tokens=exam.config.batch_tokens,
                progress=progress,
            )
        values = RowValues(
            np.array([row.sum(dtype=np.float64) for row in losses]),
            np.array([float(len(row)) for row in losses]),
        )
        by_set[name] = losses
        scores[f"{name}_loss"] = values
    return scores, by_set["target"]


def _answers(model: Any, tokenizer: Any, asked: Sequence[Question], exam: Exam) -> list[str]:
    if not asked:
        return []
    with torch.random.fork_rng():  # sampled answers are the same for the same seed
        torch.manual_seed(exam.seed)
        return generate(
            model,
            tokenizer,
            [question.prompt_ids for question in asked],
            max_new_tokens=exam.config.max_new_tokens,
            batch_tokens=exam.config.batch_tokens,
            temperature=exam.config.temperature,
        )


def _compared(
    metrics: AnswerMetrics, asked: Sequence[Question], answers: Sequence[str]
) -> dict[str, Measured]:
    if not answers:
        return {}
    return {
        name: row_means([of(a, q.expected) for a, q in zip(answers, asked, strict=True)])
        for name, of in metrics.items()
    }


def _choices(model: Any, tokenizer: Any, exam: Exam) -> dict[str, RowValues]:
    return choice_accuracy(
        model,
        tokenizer,
        exam.choices,
        batch_tokens=exam.config.batch_tokens,
        max_length=exam.max_length,
        system_prompt=exam.system_prompt,
    )


def _answer_logps(model: Any, exam: Exam, preferences: Preferences) -> npt.NDArray[np.float64]:
    return answer_logps(
        model,
        preferences,
        max_length=exam.max_length,
        batch_tokens=exam.config.batch_tokens,
    )


def _harness(model: Any, tokenizer: Any, exam: Exam) -> dict[str, Measured]:
    from ytrainer_core.evaluation.harness import lm_eval_metrics

    config = exam.config
    return lm_eval_metrics(
        model,
        tokenizer,
        config.lm_eval,
        folder=config.lm_eval_folder,
        limit=config.lm_eval_limit,
        batch_size=max(1, config.batch_tokens // exam.max_length),
        max_length=exam.max_length,
    )


def _summaries(model: Any, exam: Exam) -> dict[str, Summaries]:
    return {
        name: distribution_summary(
            model, rows, max_length=exam.max_length, batch_tokens=exam.config.batch_tokens
        )
        for name, rows in exam.drift_rows().items()
    }


def _drift(model: Any, exam: Exam, base: Measurement) -> dict[str, RowValues]:
    scores: dict[str, RowValues] = {}
    for name, rows in exam.drift_rows().items():
        found = drift(
            base.summaries[name],
            model,
            rows,
            max_length=exam.max_length,
            batch_tokens=exam.config.batch_tokens,
        )
        scores[f"{name}_kl"] = found["kl"]
        scores[f"{name}_agreement"] = found["top1_agreement"]
    return scores
