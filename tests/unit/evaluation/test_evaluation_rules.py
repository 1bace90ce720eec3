"""Rules of the gate are read as written, and a wrong one is refused before anything is measured."""

from __future__ import annotations

import pytest

from ytrainer_core.errors import ConfigError
from ytrainer_core.evaluation.rules import Rule, parse_rules


@pytest.mark.parametrize(
    "text, metric, at_least, other, factor, offset",
    [
        ("numeric >= 0.6", "numeric", True, "", 0.0, 0.6),
        ("repetition<=-1e-2", "repetition", False, "", 0.0, -0.01),
        ("rouge_l >= base", "rouge_l", True, "base", 1.0, 0.0),
        ("rouge_l >= base + 0.05", "rouge_l", True, "base", 1.0, 0.05),
        ("rouge_l >= champion - .05", "rouge_l", True, "champion", 1.0, -0.05),
        ("target_loss <= champion * 1.02", "target_loss", False, "champion", 1.02, 0.0),
        ("general_exact_match >= 0", "general_exact_match", True, "", 0.0, 0.0),
    ],
)
def test_a_rule_says_metric_direction_and_limit(
    text: str, metric: str, at_least: bool, other: str, factor: float, offset: float
) -> None:
    assert parse_rules([f" {text} "]) == [Rule(text, metric, at_least, other, factor, offset)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["numeric", "numeric > 0.6", "numeric == 1", "numeric >= two", "numeric >= base / 2",
     "0.6 <= numeric", "numeric >= nan", "numeric >= base + champion", ""],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_shown_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"gate.rules: .* cannot be read. Write METRIC >= NUMBER"):
        parse_rules([text])


def test_a_metric_that_nobody_knows_is_named_with_the_nearest_and_all_known() -> None:
    with pytest.raises(ConfigError, match=r"no metric rouge-l. Did you mean rouge_l?") as e:
        parse_rules(["rouge-l >= 0.5"])
    assert "choice_accuracy" in str(e.value) and "general_loss" in str(e.value)


def test_perplexity_is_told_to_be_written_as_a_loss() -> None:
    with pytest.raises(ConfigError, match=r"is exp\(target_loss\). Write the rule for target_loss"):
        parse_rules(["target_perplexity <= 12"])


def test_all_wrong_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(["numeric >= 0.5", "foo >= 1", "bar"])
    assert len(caught.value.faults) == 2


def test_tasks_of_the_harness_are_metrics_too() -> None:
    (rule,) = parse_rules(["arc_easy_acc >= 0.5"], harness=["arc_easy"])
    assert rule.metric == "arc_easy_acc"
    with pytest.raises(ConfigError, match="no metric arc_easy_acc"):
        parse_rules(["arc_easy_acc >= 0.5"])
