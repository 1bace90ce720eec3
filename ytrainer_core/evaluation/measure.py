"""One model measured on target and general rows: loss, perplexity, exact match, F1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.evaluation.generate import generate
from ytrainer_core.evaluation.tasks import exact_match, token_f1
from ytrainer_core.scoring.signals import Floats, token_signals


@dataclass(frozen=True)
class Question:
    """A held-out row to be answered: prompt as token ids and text, and the expected answer."""

    prompt_ids: Sequence[int]
    prompt: str
    expected: str


@dataclass(frozen=True)
class Measurement:
    """metrics: name -> value (nats for losses). nll: every target's loss. answers: as generated."""

    metrics: dict[str, float]
    nll: Floats
    answers: list[str] = field(default_factory=list)


def measure(
    model: Any,
    tokenizer: Any,
    *,
    target: Sequence[Mapping[str, Any]],
    general: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    max_length: int,
    config: EvaluateConfig,
) -> Measurement:
    """Measure one model.

    target, general: tokenized rows, read in pieces of at most max_length tokens. Without
    general text or questions the metrics that need them are absent.
    """
    metrics: dict[str, float] = {}
    losses: dict[str, Floats] = {}
    for name, rows in (("target", target), ("general", general)):
        signals = token_signals(
            model,
            rows,
            max_length=max_length,
            batch_tokens=config.batch_tokens,
            title=f"{name} loss",
        )
        if not signals:
            continue
        losses[name] = np.concatenate([row.nll for row in signals])
        loss = float(losses[name].mean(dtype=np.float64))
        metrics[f"{name}_loss"] = loss
        metrics[f"{name}_perplexity"] = math.exp(min(loss, 700.0))  # exp(700) is near the largest
    answers: list[str] = []
    if questions:
        answers = generate(
            model,
            tokenizer,
            [question.prompt_ids for question in questions],
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.batch_tokens,
        )
        pairs = [(a, q.expected) for a, q in zip(answers, questions, strict=True)]
        metrics["exact_match"] = float(np.mean([exact_match(*pair) for pair in pairs]))
        metrics["token_f1"] = float(np.mean([token_f1(*pair) for pair in pairs]))
    return Measurement(metrics, losses.get("target", np.zeros(0, np.float32)), answers)
