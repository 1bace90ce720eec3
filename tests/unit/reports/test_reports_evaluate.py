"""The evaluation report: the verdict first, every number with its interval, every change placed."""

from __future__ import annotations

import pytest

from ytrainer_core import reports as r
from ytrainer_core.evaluation.intervals import Difference, Estimate


@pytest.mark.parametrize("verdict, says", [(True, "✓ Accepted"), (False, "✗ Rejected")])
def test_evaluate_opens_with_the_verdict_and_every_reason(page, verdict, says):
    read = page(r.write_evaluate_report, verdict=verdict)
    assert read.texts("strong")[0].startswith(says)
    reasons = read.texts("li")
    assert reasons[0].startswith("✗")
    assert reasons[1] == "✓the target loss fell"


def test_every_model_has_a_column_and_the_challenger_is_compared_with_each_other(page):
    cells = page(r.write_evaluate_report).cells()
    assert cells[0] == ["", "base", "champion", "challenger", "against base", "against champion"]
    assert cells[1] == ["Target"]
    assert cells[2] == [
        "target lossnats per token",
        "2.0001.900 to 2.100",
        "1.5001.400 to 1.600",
        "1.0000.900 to 1.100",
        "−1.000 (−50.0 %)−1.100 to −0.900p 0.001 better",
        "−0.500 (−33.3 %)−0.600 to +0.100p 0.200 not clear",
    ]


def test_a_change_of_a_share_is_told_in_its_own_unit_alone(page):
    line = page(r.write_evaluate_report).cells()[3]
    assert line[4:] == [
        "0.0000.000 to 0.000p 1.000 unchanged",
        "−0.400−0.500 to −0.300p 0.001 worse",
    ]


def test_what_was_not_measured_of_a_model_has_no_value_there(page):
    cells = page(r.write_evaluate_report).cells()
    assert cells[4] == ["target klnats per token", "–", "–", "0.2500.200 to 0.300", "–", "–"]
    assert cells[6][1:] == ["NaN", "–", "1.0001.000 to 1.000", "–", "–"]


def test_without_a_champion_there_is_no_column_for_one(page):
    line = r.MetricLine(
        "token f1", "Target", "higher", "share", "",
        {"base": Estimate(0.1, 0, 0.2, 9), "challenger": Estimate(0.3, 0.2, 0.4, 9)},
        {"base": Difference(0.2, 0.1, 0.3, 0.01, 9)},
    )  # fmt: skip
    read = page(
        r.write_evaluate_report, names={"base": "b", "challenger": "c"}, metrics=[line],
        generations=[], comparison=None,
    )  # fmt: skip
    assert read.cells()[0] == ["", "base", "challenger", "against base"]
    assert read.cells()[2][-1].endswith("better")
    assert "champion" not in " ".join(read.texts("main"))


@pytest.mark.parametrize(
    "better, low, high, says",
    [
        ("lower", -0.3, -0.1, "better"),
        ("lower", 0.1, 0.3, "worse"),
        ("higher", 0.1, 0.3, "better"),
        ("higher", -0.3, -0.1, "worse"),
        ("higher", -0.1, 0.3, "not clear"),
        ("higher", 0.0, 0.3, "not clear"),
        ("higher", 0.0, 0.0, "unchanged"),
        ("none", 0.1, 0.3, ""),
    ],
)
def test_only_an_interval_on_one_side_of_zero_says_better_or_worse(page, better, low, high, says):
    estimate = Estimate(1.0, 1.0, 1.0, 9)
    line = r.MetricLine(
        "m", "Target", better, "share", "", {"base": estimate, "challenger": estimate},
        {"base": Difference((low + high) / 2, low, high, 0.5, 9)},
    )  # fmt: skip
    names = {"base": "b", "challenger": "c"}
    read = page(r.write_evaluate_report, names=names, metrics=[line], generations=[],
                comparison=None)  # fmt: skip
    assert read.cells()[2][-1].endswith(f"p 0.500 {says}".rstrip())


def test_broken_answers_come_first_and_open_beside_what_the_others_said(page):
    read = page(r.write_evaluate_report)
    assert read.raw.index("WRONG-NOW") < read.raw.index("RIGHT-BOTH")
    folds = [a for tag, a, _ in read.elements if tag == "details" and "class" not in a]
    assert "open" in folds[0]
    assert "open" not in folds[-1]
    headings = [text for text in read.texts("summary") if "champion was right" in text]
    assert headings == ["Broken: the champion was right, the challenger is wrong (1)"]
    (broken,) = [text for text in read.texts("article") if "WRONG-NOW" in text]
    assert broken.count("✓ right") == 2 and broken.count("✗ wrong") == 1


def test_rows_that_changed_most_are_told_by_direction_the_worse_first(page):
    read = page(r.write_evaluate_report)
    headings = [text for text in read.texts("h3") if "changed most" in text]
    assert headings == [
        "Got worse: the rows that changed most",
        "Got better: the rows that changed most",
    ]
    assert read.raw.index("worse:2") < read.raw.index("better:1")
    assert "nan:3" not in read.raw
    assert "Compared with the champion." in " ".join(read.texts("p"))
    axes = " ".join(read.texts("figure"))
    assert "challenger − champion, nats per token" in axes


def test_all_answers_are_counted_and_the_first_of_each_kind_shown(page):
    both = {"base": "b", "challenger": "c"}
    right = dict.fromkeys(both, True)
    answers = [r.Generation(f"asked {i}.", "x", both, right) for i in range(20)]
    read = page(r.write_evaluate_report, names=both, generations=answers, metrics=[])
    (heading,) = [text for text in read.texts("summary") if "Still right" in text]
    assert heading.endswith("(first 15 of 20)")
    assert "asked 14." in read.raw and "asked 15." not in read.raw
    counted = dict(zip(read.texts("dt"), read.texts("dd"), strict=True))
    assert (counted["Still right"], counted["Broken"]) == ("20", "0")
