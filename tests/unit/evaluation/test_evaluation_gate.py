"""The gate opens only where every condition holds, and says of each whether it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import GateConfig
from ytrainer_core.evaluation.gate import Contest, judge
from ytrainer_core.evaluation.intervals import Estimate, RowValues, row_means
from ytrainer_core.evaluation.metrics import Measured, Statistics
from ytrainer_core.evaluation.rules import parse_rules
from ytrainer_core.evaluation.verdict import Verdict

ROWS = 20
BASE = {"target_loss": 3.0, "general_loss": 2.0, "exact_match": 0.1}
TUNED = {"target_loss": 2.0, "general_loss": 2.1, "exact_match": 0.5}

Given = Mapping[str, float | Measured]


def scores(values: Given) -> dict[str, Measured]:
    """A number stands for ROWS rows that all have it: its interval has no width."""
    return {
        name: row_means([float(value)] * ROWS) if isinstance(value, int | float) else value
        for name, value in values.items()
    }


def verdict(
    tuned: Given | None = None,
    base: Given | None = None,
    champion: Given | None = None,
    rows: int = ROWS,
    note: str = "",
    only: bool = False,
    **config: Any,
) -> Verdict:
    """only: nothing but what is given is measured."""
    gate = GateConfig(**config)
    return judge(
        Contest(
            challenger=scores({} if only else TUNED) | scores(tuned or {}),
            base=scores({} if only else BASE) | scores(base or {}),
            champion=None if champion is None else scores(champion),
            rows=rows,
            champion_note=note,
        ),
        gate,
        parse_rules(gate.rules),
        Statistics(gate.confidence, resamples=1000, seed=0),
    )


def failed(found: Verdict) -> list[str]:
    assert found.passed is all(reason.passed for reason in found.reasons)
    return [reason.text for reason in found.reasons if not reason.passed]


def last(found: Verdict) -> tuple[bool, str]:
    return found.reasons[-1].passed, found.reasons[-1].text


def test_a_better_model_that_forgot_little_passes_with_every_reason_told() -> None:
    found = verdict(note="No champion was compared: no version of 'm' is @champion yet.")
    assert found.passed
    assert [reason.text for reason in found.reasons] == [
        "20 held-out rows were measured; at least 20 are needed.",
        "All metrics are finite.",
        "Target loss 3.000 -> 2.000 nats: fell by 1.000 (95% interval 1.000 to 1.000); more than "
        "0.000 is needed.",
        "General loss 2.000 -> 2.100 nats: +5.0% (95% interval +5.0% to +5.0%); at most +10.0% is "
        "tolerated.",
        "No champion was compared: no version of 'm' is @champion yet.",
    ]


@pytest.mark.parametrize("rows, passes", [(19, False), (20, True), (21, True)])
def test_too_few_rows_are_not_trusted(rows: int, passes: bool) -> None:
    assert verdict(rows=rows).passed is passes


# --- against the base ----------------------------------------------------------------------------


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


def test_the_worse_end_of_the_interval_is_judged_not_the_value() -> None:
    """Two rows that fell by 2 and by 0: drawn again the fall is 0, 1 or 2, the first in a quarter
    of the draws, so the interval ends at 0 although the loss fell by 1 on average. With three
    tenths cut off on either side it is 1 alone."""
    tuned, base = row_means([1.0, 3.0]), row_means([3.0, 3.0])
    found = verdict({"target_loss": tuned}, {"target_loss": base}, rows=20)
    (said,) = failed(found)
    assert "fell by 1.000 (95% interval 0.000 to 2.000)" in said
    assert said.endswith("The value alone would hold; more held-out rows narrow the interval.")
    assert verdict({"target_loss": tuned}, {"target_loss": base}, confidence=0.4).passed


def test_tokens_count_not_rows() -> None:
    """9 tokens that rose by 0.1 and one that fell by 2: the loss per token fell by 0.11."""
    counts = np.array([9.0, 1.0])
    base, tuned = RowValues(counts * 3, counts), RowValues(np.array([27.9, 1.0]), counts)
    found = verdict({"target_loss": tuned}, {"target_loss": base})
    assert "3.000 -> 2.890 nats: fell by 0.110" in failed(found)[0]


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
    found = verdict({"target_loss": 2.0}, {"target_loss": 3.0}, only=True)
    assert found.passed and len(found.reasons) == 3


def test_without_a_target_loss_there_is_no_verdict_but_no() -> None:
    (said,) = failed(verdict(only=True))
    assert "target loss was not measured" in said and "data.validation" in said


# --- absolute ------------------------------------------------------------------------------------


@pytest.mark.parametrize("got, passes", [(0.49, False), (0.5, True), (1.0, True)])
def test_exact_match_must_reach_its_least_share(got: float, passes: bool) -> None:
    assert verdict({"exact_match": got}, min_exact_match=0.5).passed is passes


def test_exact_match_must_reach_it_at_the_lower_end() -> None:
    """One of two rows right: drawn again 0, 0.5 or 1."""
    (said,) = failed(verdict({"exact_match": row_means([0, 1])}, min_exact_match=0.4))
    assert said.startswith("Exact match 0.500 (95% interval 0.000 to 1.000); at least 0.400")


def test_exact_match_that_is_asked_for_but_was_not_measured_fails() -> None:
    found = verdict({"target_loss": 2.0}, {"target_loss": 3.0}, only=True, min_exact_match=0.1)
    (said,) = failed(found)
    assert said.startswith("Exact match was not measured") and "evaluate.answers" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["target_loss", "general_loss", "token_f1"])
@pytest.mark.parametrize("side", ["tuned", "base", "champion"])
def test_a_metric_that_is_not_finite_fails_whatever_the_thresholds(
    side: str, metric: str, value: float
) -> None:
    open_gate: dict[str, Any] = {"min_target_loss_drop": -1e9, "max_general_loss_rise": 1e9}
    given: dict[str, Any] = {side: {metric: value}}
    found = verdict(**given, **open_gate, champion_tolerance=1e9)
    prefix = "" if side == "tuned" else f"{side} "
    assert f"Not finite: {prefix}{metric}." in failed(found)


def test_one_row_that_is_not_a_number_is_enough() -> None:
    found = verdict({"token_f1": row_means([math.nan, *[1.0] * 19])})
    assert failed(found) == ["Not finite: token_f1."]


def test_an_interval_of_the_harness_that_is_not_a_number_fails() -> None:
    found = verdict({"arc_easy": Estimate(0.5, math.nan, 0.6, 100)})
    assert failed(found) == ["Not finite: arc_easy."]


def test_every_failed_condition_is_told() -> None:
    found = verdict({"target_loss": 3.5, "general_loss": 9.0}, rows=1, min_exact_match=0.9)
    assert len(failed(found)) == 4


# --- against the champion ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric, tuned, champion, passes",
    [
        ("target_loss", 2.0, 2.0, True),
        ("target_loss", 2.1, 2.0, True),  # 5 % is what is tolerated
        ("target_loss", 2.11, 2.0, False),
        ("target_loss", 0.12, 0.07, True),  # below one nat 0.05 nats are
        ("target_loss", 0.13, 0.07, False),
        ("general_loss", 2.11, 2.0, False),
        ("exact_match", 0.45, 0.5, True),
        ("exact_match", 0.44, 0.5, False),
        ("exact_match", 0.9, 0.5, True),
        ("general_token_f1", 0.44, 0.5, False),
        ("choice_accuracy", 0.44, 0.5, False),
        ("arc_easy", 0.44, 0.5, False),
    ],
)
def test_no_metric_may_fall_behind_the_champion_by_more_than_the_tolerance(
    metric: str, tuned: float, champion: float, passes: bool
) -> None:
    """Relative for losses, absolute for small ones and for shares."""
    found = verdict({metric: tuned}, champion={metric: champion})
    assert found.passed is passes
    assert last(found)[1].startswith(f"Against the champion, {metric.replace('_', ' ')} ")


@pytest.mark.parametrize(
    "metric", ["target_kl", "general_agreement", "repetition", "distinct_1", "target_agreement"]
)
def test_what_only_describes_is_not_judged_unasked(metric: str) -> None:
    found = verdict({metric: 0.9}, champion={metric: 0.1})
    assert found.passed and len(found.reasons) == 4


def test_the_pairing_counts_not_the_spread_of_the_rows() -> None:
    """Rows between 0 and 1 of which the challenger has each exactly 0.04 below the champion."""
    before = np.linspace(0.1, 1, 10)
    found = verdict(
        {"token_f1": row_means(before - 0.04)}, champion={"token_f1": row_means(before)}
    )
    assert last(found) == (
        True,
        "Against the champion, token f1 0.550 -> 0.510: -0.040 (95% interval -0.040 to -0.040); "
        "-0.050 is tolerated.",
    )


def test_too_few_rows_to_tell_are_no_pass() -> None:
    """One of two rows fell by 0.1, the other rose by as much."""
    tuned, champion = row_means([0.4, 0.6]), row_means([0.5, 0.5])
    passed, said = last(verdict({"token_f1": tuned}, champion={"token_f1": champion}))
    assert not passed and "+0.000 (95% interval -0.100 to +0.100)" in said


def test_a_metric_that_only_one_of_them_has_is_not_compared() -> None:
    found = verdict({"numeric": 0.1}, champion={"token_f1": 0.9})
    assert found.passed and len(found.reasons) == 4


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule, tuned, passes",
    [
        ("numeric >= 0.6", 0.6, True),
        ("numeric >= 0.6", 0.59, False),
        ("repetition<=0.2", 0.2, True),
        ("repetition <= .2", 0.21, False),
        ("target_kl <= 1e-1", 0.09, True),
        ("numeric >= base", 0.5, True),
        ("numeric >= base", 0.49, False),
        ("numeric >= base + 0.05", 0.55, True),
        ("numeric >= base + 0.05", 0.54, False),
        ("numeric >= base - 0.05", 0.45, True),
        ("numeric >= base -0.05", 0.44, False),
        ("numeric >= base * 1.2", 0.6, True),
        ("numeric >= base * 1.2", 0.59, False),
        ("target_loss <= champion * 1.02", 2.04, True),
        ("target_loss <= champion * 1.02", 2.05, False),
    ],
)
def test_a_rule_holds_where_its_condition_does(rule: str, tuned: float, passes: bool) -> None:
    name = rule.split()[0].split("<")[0]
    other = 2.0 if name == "target_loss" else 0.5
    found = verdict({name: tuned}, {name: 0.5} if name == "numeric" else {}, {name: other},
                    rules=[rule], champion_tolerance=9.0)  # fmt: skip
    assert last(found)[0] is passes
    assert last(found)[1].startswith(f"Rule '{rule}': ")


def test_a_rule_is_judged_at_the_worse_end() -> None:
    half = {"numeric": row_means([0, 1])}
    assert last(verdict(half, rules=["numeric >= 0.1"])) == (
        False,
        "Rule 'numeric >= 0.1': 0.500 (95% interval 0.000 to 1.000); 0.100 is the least. The value "
        "alone would hold; more held-out rows narrow the interval.",
    )
    assert not last(verdict(half, rules=["numeric <= 0.9"]))[0]


def test_a_rule_with_a_factor_holds_for_a_base_of_zero() -> None:
    """A relative difference would not be a number there."""
    found = verdict({"numeric": 0.0}, {"numeric": 0.0}, rules=["numeric >= base * 1.2"])
    assert found.passed


def test_a_rule_about_the_champion_holds_where_there_is_none_and_says_so() -> None:
    found = verdict(rules=["target_loss <= champion * 0.1"])
    assert last(found) == (
        True,
        "Rule 'target_loss <= champion * 0.1': there is no champion, so it holds.",
    )


@pytest.mark.parametrize(
    "rule, model", [("numeric >= 0", "the trained model"), ("token_f1 >= base", "the base")]
)
def test_a_rule_about_what_was_not_measured_fails_with_the_remedy(rule: str, model: str) -> None:
    passed, said = last(verdict({"token_f1": 1.0}, rules=[rule]))
    assert not passed
    assert f"of {model} was not measured" in said and "gate.rules" in said


def test_values_of_the_harness_are_compared_by_their_own_intervals() -> None:
    """0.7 +- 0.03 against 0.6 +- 0.04: 0.1 +- 0.05."""
    tuned, base = Estimate(0.7, 0.67, 0.73, 100), Estimate(0.6, 0.56, 0.64, 100)
    statistics = Statistics(0.95, 100, 0)
    found = statistics.difference(tuned, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.05, 0.15))
    relative = statistics.difference(tuned, base, relative=True)
    assert (relative.value, relative.low) == pytest.approx((1 / 6, 1 / 12))


def test_perplexity_is_the_exponential_of_the_loss_and_of_its_interval() -> None:
    found = Statistics(0.95, 1000, 0).estimates({"target_loss": row_means([0.0, 2.0])})
    assert [*found] == ["target_loss", "target_perplexity"]
    perplexity = found["target_perplexity"]
    assert (perplexity.value, perplexity.low, perplexity.high) == pytest.approx(
        (math.e, 1.0, math.exp(2))
    )
