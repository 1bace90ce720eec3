"""The evaluation report in a real browser; skipped where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import PHONE

from ytrainer_core import reports as r
from ytrainer_core.evaluation.intervals import Difference, Estimate
from ytrainer_core.reports.score import ComparedRow, ComparedToken, Comparison

MODELS = ("base", "champion", "challenger")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models with long names, a row of 600 tokens, answers without a blank."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    value, change = Estimate(1.234, 1.1, 1.3, 40), Difference(-0.12, -0.2, -0.05, 0.01, 40)
    line = r.MetricLine(
        "choice accuracy normalized", "Target", "lower", "nats per token", "About it.",
        dict.fromkeys(MODELS, value), {"base": change, "champion": change},
    )  # fmt: skip
    tokens = [ComparedToken(f" word{i}", 1.0, 1.0) for i in range(600)]
    tokens[300] = ComparedToken(" wrong", 0.1, 9.0)
    row = ComparedRow("rows.jsonl:7", "p", tokens)
    r.write_evaluate_report(
        path,
        r.EvaluateReport(
            title="Evaluation",
            verdict=False,
            reasons=[r.Reason(False, "Target loss 3.000 -> 2.000 nats: " + "fell " * 40)],
            names={model: f"/{'long' * 30}/{model}" for model in MODELS},
            metrics=[line],
            generations=[
                r.Generation("asked " * 60, "answer" * 60, dict.fromkeys(MODELS, "said" * 90),
                             {"base": False, "champion": True, "challenger": False}),
            ],
            right_by="exact match",
            comparison=Comparison("a", "b", [row], [1.0], [1.1], [0.0, 8.9]),
            nll_base=[1.0, 2.0],
            nll_tuned=[0.5, 1.0],
        ),
    )  # fmt: skip
    return path


def test_the_verdict_and_its_first_reason_are_on_a_phone_s_first_screen(chromium, report):
    chromium.open(report)
    for selector in (".verdict strong", ".verdict li"):
        top = chromium.run(f"document.querySelector('{selector}').getBoundingClientRect().top")
        assert 0 < top < PHONE[1], selector


def test_nothing_is_wider_than_a_phone_but_the_table_which_scrolls(chromium, report):
    chromium.open(report)
    assert chromium.run("document.documentElement.scrollWidth") <= PHONE[0]
    table = "document.querySelector('.wide')"
    assert chromium.run(f"{table}.scrollWidth > {table}.clientWidth")


def test_the_token_that_changed_is_shown_and_tells_its_losses(chromium, report):
    chromium.open(report)
    chosen = "[...document.querySelectorAll('.tokens i')].find(i => i.textContent == ' wrong')"
    assert chromium.run(f"{chosen}.checkVisibility()")
    colour = "getComputedStyle({}).backgroundColor"
    assert chromium.run(colour.format(chosen)) != chromium.run(
        colour.format("document.querySelector('.tokens i')")
    )
    chromium.run(f"{chosen}.click()")
    assert chromium.run("document.getElementById('readout').textContent") == (
        "“wrong”  loss 0.10 → 9.00 nats"
    )


def test_broken_answers_are_open_and_side_by_side_where_there_is_room(chromium, report):
    chromium.open(report)
    labels = "[...document.querySelectorAll('article .label')].filter(l => l.checkVisibility())"
    shown = chromium.run(f"{labels}.map(l => l.textContent.trim())")
    assert shown == [
        "Prompt", "Expected", "Base ✗ wrong", "Champion ✓ right", "Challenger ✗ wrong"
    ]  # fmt: skip
    tops = f"{labels}.slice(2).map(l => Math.round(l.getBoundingClientRect().top))"
    assert len(set(chromium.run(tops))) == 3
    wide = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.call("Emulation.setDeviceMetricsOverride", **wide)
    assert len(set(chromium.run(tops))) == 1
    narrow = {**wide, "width": PHONE[0]}
    chromium.call("Emulation.setDeviceMetricsOverride", **narrow)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(scheme, chromium, report):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chromium.call("Emulation.setEmulatedMedia", features=[feature])
    chromium.open(report)
    contrast = """(selector => {
      const light = c => { const [r, g, b] = c.match(/\\d+/g).map(v => {
        v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ink = light(getComputedStyle(document.querySelector(selector)).color);
      const page = light(getComputedStyle(document.body).backgroundColor);
      return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05); })"""
    for selector in ("h1", "td .quiet", ".verdict li", ".label"):
        assert chromium.run(f"{contrast}('{selector}')") >= 4.5, selector
    chromium.call("Emulation.setEmulatedMedia", features=[])


def test_the_browser_has_nothing_to_complain_about(chromium, report):
    chromium.open(report)
    assert chromium.console == []
