"""Which metrics there are, in which direction each is better, and how sure a value of it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ytrainer_core.config.judging import AnswerMetric
from ytrainer_core.evaluation.harness import lower_is_better
from ytrainer_core.evaluation.intervals import (
    Difference,
    Estimate,
    RowValues,
    difference,
    estimate,
)

Better = Literal["lower", "higher", "none"]

Measured = RowValues | Estimate
"""A metric row by row, or one of which only value and interval are known."""

Scores = Mapping[str, Measured]
"""What one model reached, by metric."""

GENERAL = "general_"
"""Before the name of an answer metric: measured on the general set's conversations."""

_LARGEST_EXPONENT = 700.0
"""exp of it is near the largest float."""


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is measured.

    judged: the gate compares it with the champion's without being told to. relative: what may
    be lost then is a share of the champion's value, not an absolute number.
    """

    better: Better
    unit: str
    description: str
    judged: bool = False
    relative: bool = False


def _loss(what: str) -> Metric:
    return Metric("lower", "nats per token", f"Mean loss of {what}.", judged=True, relative=True)


def _answer(description: str) -> Metric:
    return Metric("higher", "share", description, judged=True)


def _described(unit: str, description: str, better: Better = "none") -> Metric:
    return Metric(better, unit, description)


ANSWERS: dict[str, Metric] = {
    "exact_match": _answer("Answers that are the expected one, white space at the ends aside."),
    "normalized_match": _answer("Answers that are the expected one, wording aside."),
    "token_f1": _answer("Words that answer and expected answer have in common, F1."),
    "rouge_l": _answer("Longest common subsequence with the expected answer, F1."),
    "numeric": _answer("Answers whose number is the expected one."),
    "json_valid": _answer("Answers that are JSON."),
    "json_schema": _answer("Answers that fit the JSON schema."),
    "regex": _answer("Answers in which the pattern is found."),
    "function": Metric("higher", "", "Mean of what evaluate.function gives.", judged=True),
}
"""Metrics of generated answers; with general_ before the name, of those to general prompts."""

METRICS: dict[str, Metric] = {
    "target_loss": _loss("the held-out target's trained tokens"),
    "target_perplexity": _described("", "exp of the target loss.", "lower"),
    "general_loss": _loss("the general text"),
    "general_perplexity": _described("", "exp of the general loss.", "lower"),
    **ANSWERS,
    "choice_accuracy": _answer("Questions whose right choice is the likeliest."),
    "choice_accuracy_normalized": _answer("The same, likelihood counted per byte."),
    "preference_accuracy": _answer(
        "Pairs of a liked and a disliked answer of which tuning made the liked one likelier."
    ),
    "preference_margin": _described(
        "nats per answer", "How much more it did so for liked answers than for others.", "higher"
    ),
    **{GENERAL + name: metric for name, metric in ANSWERS.items()},
    "general_answer_agreement": _described("share", "F1 with the base's own general answers."),
    "target_kl": _described("nats per token", "KL(base‖model) at the target's tokens."),
    "target_agreement": _described("share", "Target tokens where base and model expect the same."),
    "general_kl": _described("nats per token", "KL(base‖model) at the general text's tokens."),
    "general_agreement": _described("share", "General tokens where both expect the same."),
    "repetition": _described("share", "4-grams of an answer that it has said before."),
    "distinct_1": _described("share", "Words of an answer that are different ones."),
    "distinct_2": _described("share", "Word pairs of an answer that are different ones."),
}
"""Every metric but those of lm-evaluation-harness, in the order they are shown in."""

PERPLEXITIES = {"target_perplexity": "target_loss", "general_perplexity": "general_loss"}
"""Metrics that say the same as another one: exp of it."""

assert set(ANSWERS) == set(get_args(AnswerMetric))


def metric_of(name: str) -> Metric:
    """What is known of a metric; an unknown name is one of lm-evaluation-harness."""
    if name in METRICS:
        return METRICS[name]
    lower = lower_is_better(name)  # such as a perplexity, which has no natural scale
    better: Better = "lower" if lower else "higher"
    return Metric(better, "", "Of lm-evaluation-harness.", judged=True, relative=lower)


def group_of(name: str) -> str:
    """Under which heading a metric is shown."""
    if name not in METRICS:
        return "lm-evaluation-harness"
    if name.startswith(GENERAL):
        return "General set: what was forgotten"
    if name.startswith(("repetition", "distinct")):
        return "Wording of the answers"
    return "Target"


def in_order(names: Mapping[str, object]) -> list[str]:
    """The names as they are shown: ours as METRICS has them, then the harness's."""
    return [name for name in METRICS if name in names] + sorted(set(names) - set(METRICS))


@dataclass(frozen=True)
class Statistics:
    """How intervals are drawn; the same seed draws the same rows for every metric and model."""

    confidence: float
    resamples: int
    seed: int

    def estimate(self, measured: Measured) -> Estimate:
        """A metric with its interval."""
        if isinstance(measured, Estimate):
            return measured
        return estimate(
            measured, resamples=self.resamples, confidence=self.confidence, seed=self.seed
        )

    def difference(
        self, first: Measured, second: Measured, *, relative: bool = False
    ) -> Difference:
        """first - second (relative: first / second - 1), paired where both are known by rows."""
        if isinstance(first, RowValues) and isinstance(second, RowValues):
            return difference(
                first,
                second,
                resamples=self.resamples,
                confidence=self.confidence,
                seed=self.seed,
                relative=relative,
            )
        found = _unpaired(self.estimate(first), self.estimate(second))
        return _scaled(found, 1 / self.estimate(second).value) if relative else found

    def estimates(self, scores: Scores) -> dict[str, Estimate]:
        """Every metric with its interval, perplexities included, in the order shown."""
        found = {name: self.estimate(measured) for name, measured in scores.items()}
        for name, loss in PERPLEXITIES.items():
            if loss in found:
                of = found[loss]
                found[name] = Estimate(_exp(of.value), _exp(of.low), _exp(of.high), of.rows)
        return {name: found[name] for name in in_order(found)}

    def differences(self, first: Scores, second: Scores) -> dict[str, Difference]:
        """first - second for every metric that both have, in the order shown."""
        return {
            name: self.difference(first[name], second[name])
            for name in in_order(first)
            if name in second
        }


def _exp(value: float) -> float:
    return math.exp(min(value, _LARGEST_EXPONENT))


def _unpaired(first: Estimate, second: Estimate) -> Difference:
    """Difference of two values whose rows are not known; p by the normal approximation.

    Source of the interval: MOVER, Zou and Donner 2008, eq. 3, for independent estimates. Two
    models on the same documents are positively correlated, so it is too wide rather than too
    narrow.
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    rows = min(first.rows, second.rows)
    return Difference(value, low, high, math.nan, rows)


def _scaled(found: Difference, factor: float) -> Difference:
    return Difference(
        found.value * factor, found.low * factor, found.high * factor, found.p_value, found.rows
    )
