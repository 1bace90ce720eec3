"""The gate opens only where every condition holds, and says of each whether it did."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ytrainer_core.config import GateConfig
from ytrainer_core.evaluation.gate import Verdict, judge

BASE = {"target_loss": 3.0, "general_loss": 2.0, "exact_match": 0.1}
TUNED = {"target_loss": 2.0, "general_loss": 2.1, "exact_match": 0.5}


def verdict(
    tuned: dict[str, float] | None = None,
    base: dict[str, float] | None = None,
    rows: int = 20,
    **config: Any,
) -> Verdict:
    return judge(BASE | (base or {}), TUNED | (tuned or {}), rows, GateConfig(**config))


def failed(found: Verdict) -> list[str]:
    assert found.passed is all(reason.passed for reason in found.reasons)
    return [reason.text for reason in found.reasons if not reason.passed]


def test_a_better_model_that_forgot_little_passes_with_every_reason_told() -> None:
    found = verdict()
    assert found.passed
    assert [reason.text for reason in found.reasons] == [
        "20 held-out rows were measured; at least 20 are needed.",
        "All metrics are finite.",
        "Target loss 3.000 -> 2.000 nats: fell by 1.000; more than 0.000 is needed.",
        "General loss 2.000 -> 2.100 nats: +5.0%; at most +10.0% is tolerated.",
    ]


@pytest.mark.parametrize("rows, passes", [(19, False), (20, True), (21, True)])
def test_too_few_rows_are_not_trusted(rows: int, passes: bool) -> None:
    assert verdict(rows=rows).passed is passes


@pytest.mark.parametrize(
    "tuned, needed, passes",
    [(2.999, 0.0, True), (3.0, 0.0, False), (3.1, 0.0, False), (2.5, 0.5, False), (2.4, 0.5, True),
     (3.1, -0.2, True)],
)  # fmt: skip
def test_the_target_loss_must_fall_by_more_than_needed(
    tuned: float, needed: float, passes: bool
) -> None:
    found = verdict({"target_loss": tuned}, min_target_loss_drop=needed)
    assert found.passed is passes and len(failed(found)) == (not passes)


@pytest.mark.parametrize("base", [0.7, 1.0, 2.0, 2.2, 3.3])
def test_a_rise_of_exactly_what_is_tolerated_passes(base: float) -> None:
    """2.2 / 2.0 - 1 is 0.10000000000000009 in binary."""
    at = {"general_loss": base * 1.1}
    assert verdict(at, {"general_loss": base}).passed
    above = {"general_loss": base * 1.1001}
    assert len(failed(verdict(above, {"general_loss": base}))) == 1


def test_a_tolerance_of_zero_is_one() -> None:
    at = verdict({"general_loss": 2.0}, max_general_loss_rise=0.0)
    above = verdict({"general_loss": 2.0001}, max_general_loss_rise=0.0)
    assert at.passed and not above.passed


def test_without_general_text_forgetting_is_not_judged() -> None:
    found = judge({"target_loss": 3.0}, {"target_loss": 2.0}, 20, GateConfig())
    assert found.passed and len(found.reasons) == 3


@pytest.mark.parametrize("got, passes", [(0.49, False), (0.5, True), (1.0, True)])
def test_exact_match_must_reach_its_least_share(got: float, passes: bool) -> None:
    assert verdict({"exact_match": got}, min_exact_match=0.5).passed is passes


def test_exact_match_that_is_asked_for_but_was_not_measured_fails() -> None:
    found = judge({"target_loss": 3.0}, {"target_loss": 2.0}, 20, GateConfig(min_exact_match=0.1))
    assert failed(found) == ["Exact match 0.000; at least 0.100 is needed."]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["target_loss", "general_loss", "token_f1"])
@pytest.mark.parametrize("side", ["tuned", "base"])
def test_a_metric_that_is_not_finite_fails_whatever_the_thresholds(
    side: str, metric: str, value: float
) -> None:
    found = verdict(**{side: {metric: value}}, min_target_loss_drop=-1e9, max_general_loss_rise=1e9)
    assert f"Not finite: {'base ' if side == 'base' else ''}{metric}." in failed(found)


def test_every_failed_condition_is_told() -> None:
    found = verdict({"target_loss": 3.5, "general_loss": 9.0}, rows=1, min_exact_match=0.9)
    assert len(failed(found)) == 4
