"""The score report in a real browser; skipped where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import PHONE
from report_examples import FULL

from ytrainer_core.reports import score as s


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of 1,500 tokens with a wrong number in its middle, and a comparison."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    tokens = [s.ScoredToken(f" word{i}.", 0.3, 0.2) for i in range(1500)]
    tokens[700] = s.ScoredToken(" 27", 9.0, 0.1, [("24", 0.91), ("25", 0.04), ("12", 0.01)])
    row = s.ScoredRow("a.jsonl:7", 4.2, True, "asked " * 500, tokens, [(699, 702)])
    models = s.Comparison("b", "t", [s.ComparedRow("o", "p", [s.ComparedToken("x", 1.0, 2.0)])],
                          [1.0], [2.0])  # fmt: skip
    write = s.write_score_report
    write(path, s.ScoreReport("Quality", "mean_loss", [row], [4.2], 4.0, [1.0], [], {}, models))
    assert write in FULL
    return path


def visible(selector: str) -> str:
    """Script: whether the first such element is drawn, inside the window and not covered."""
    return f"""(() => {{
      const element = document.querySelector({selector!r});
      const box = element.getBoundingClientRect();
      const at = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      return at !== null && (element === at || element.contains(at) || at.contains(element));
    }})()"""


def test_the_wrong_number_and_what_was_expected_are_on_a_phone_s_first_screen(chromium, report):
    chromium.open(report)
    for selector in (".finding .was", ".finding .should", ".tokens .worst", ".tokens .instead"):
        assert chromium.run(visible(selector)), selector


def test_the_worst_word_has_a_colour_that_no_other_token_has(chromium, report):
    chromium.open(report)
    colour = "getComputedStyle(document.querySelector('.tokens {}')).backgroundColor"
    worst = chromium.run(colour.format("i.worst"))
    assert worst not in {chromium.run(colour.format(f"i{c}")) for c in (":not(.worst)", ".sus")}


def test_nothing_is_wider_than_a_phone(chromium, report):
    chromium.open(report)
    for page in ("page-rows", "page-corpus", "page-models"):
        chromium.run(f"document.getElementById('{page}').click()")
        assert chromium.run("document.documentElement.scrollWidth") <= PHONE[0]


def test_one_page_is_shown_at_a_time_and_changes_without_our_script(chromium, report):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    chromium.open(report)
    sections = "[...document.querySelectorAll('section')]"
    shown = f"{sections}.filter(s => s.offsetHeight).map(s => s.className)"
    assert chromium.run(shown) == ["page-rows"]
    chromium.run("document.getElementById('page-models').click()")
    assert chromium.run(shown) == ["page-models"]
    chromium.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_fold_opens_in_place(chromium, report):
    chromium.open(report)
    hidden = "document.querySelector('.gap i').checkVisibility()"
    assert chromium.run(hidden) is False
    chromium.run("document.querySelector('.gap summary').click()")
    assert chromium.run(hidden) is True


def test_pointing_at_a_token_tells_its_numbers(chromium, report):
    chromium.open(report)
    chromium.run("document.querySelector('.tokens .worst').click()")
    assert chromium.run("document.getElementById('readout').textContent") == (
        "“27”  loss 9.00 · entropy 0.10 nats · expected “24” 91 %, “25” 4 %, “12” 1 %"
    )


def test_the_browser_has_nothing_to_complain_about(chromium, report):
    chromium.open(report)
    assert chromium.console == []
