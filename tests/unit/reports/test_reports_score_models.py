"""The page that compares two models on the same rows."""

from __future__ import annotations

import math

import pytest

from ytrainer_core.reports import score as s
from ytrainer_core.reports.figures import Chart, changes

WRITE = s.write_score_report
NAN = math.nan


def compared(origin: str, *losses: tuple[str, float, float]) -> s.ComparedRow:
    return s.ComparedRow(origin, "asked", [s.ComparedToken(*token) for token in losses])


ROWS = [
    compared("little", ("x", 1.0, 0.9)),
    compared("worse", ("24", 0.5, 3.5), (" ok", 1.0, 1.0)),
    compared("better", ("He", 6.0, 1.0), (" ran", 3.0, 3.1)),
]


def comparison(rows=ROWS, **changes) -> s.Comparison:
    fields = {"base_nll": [1.0, 0.75, 4.5, 1.0], "tuned_nll": [0.9, 2.25, 2.05, 1.001]}
    return s.Comparison("base/model", "tuned/model", rows, **{**fields, **changes})


def test_there_is_no_second_page_without_a_comparison(page):
    read = page(WRITE, comparison=None)
    assert not read.texts("section", "page-models")
    assert "Base → tuned" not in read.texts("label")


def test_rows_come_by_the_size_of_their_change_either_way(page):
    read = page(WRITE, rows=[], scores=[], nll=[], comparison=comparison())
    assert read.texts("code")[-3:] == ["better", "worse", "little"]
    tags = [read.texts("span", "tag")[i] for i in range(3)]
    assert tags == ["better", "worse", "better"]
    findings = read.texts("p", "finding")
    assert findings[0].startswith("4.50 → 2.05 nats per token")
    assert findings[1] == "0.75 → 2.25 nats per tokenmost changed: “24” 0.50 → 3.50"


def test_tokens_are_coloured_by_direction_and_size(page):
    read = page(WRITE, rows=[], scores=[], nll=[], comparison=comparison())
    cells = {
        "".join(text): (a.get("class"), a["title"])
        for tag, a, text in read.elements
        if tag == "i" and "title" in a
    }
    assert cells["24"] == ("w4", "loss 0.50 → 3.50 nats")
    assert cells["He"] == ("b5", "loss 6.00 → 1.00 nats")
    assert cells[" ok"][0] is None
    assert cells["x"][0] is None


def test_rows_and_tokens_are_counted_by_what_became_of_them(page):
    read = page(WRITE, rows=[], scores=[], nll=[], comparison=comparison())
    main = read.texts("section", "page-models")[0]
    # means: (1 + 0.75 + 4.5 + 1) / 4 and (0.9 + 2.25 + 2.05 + 1.001) / 4
    assert "went from 1.812 to 1.550 nats per token" in main
    assert "2 of 4 rows became likelier, 1 less likely." in main
    cards = dict(zip(read.texts("dt"), read.texts("dd"), strict=True))
    assert cards == {
        "rows better": "2 (50.0 %)",
        "rows worse": "1 (25.0 %)",
        "tokens shown better": "1 (20.0 %)",
        "tokens shown worse": "1 (20.0 %)",
    }


def test_the_tokens_of_the_whole_corpus_are_counted_where_given(page):
    changes = [-1.0, -0.2, 0.3, math.inf, NAN]
    read = page(WRITE, rows=[], scores=[], nll=[], comparison=comparison(token_changes=changes))
    cards = dict(zip(read.texts("dt"), read.texts("dd"), strict=True))
    assert cards["tokens better"] == "1 (20.0 %)"
    assert cards["tokens worse"] == "2 (40.0 %)"


def test_losses_that_are_not_finite_hide_no_row(page):
    rows = [
        compared("nan", ("a", NAN, 1.0)),
        compared("inf", ("b", 1.0, math.inf), ("c", 2.0, 1.0)),
        compared("none"),
    ]
    read = page(
        WRITE,
        rows=[],
        scores=[],
        nll=[],
        comparison=comparison(rows, base_nll=[NAN] * 3, tuned_nll=[1.0] * 3),
    )
    assert read.texts("code")[-3:] == ["inf", "nan", "none"]
    assert read.texts("span", "tag") == ["better", "unknown", "unknown"]
    assert "No rows to compare." in read.texts("section", "page-models")[0]


def test_columns_of_different_length_are_refused(page):
    with pytest.raises(ValueError, match="longer"):
        page(WRITE, comparison=comparison(base_nll=[1.0]))


def test_a_change_that_is_nothing_stands_neither_right_nor_left():
    svg = changes("c", [0.0, 0.0, -1.0], x_label="x", y_label="y").svg
    assert "var(--green)" in svg
    assert changes("c", [], x_label="x", y_label="y") == Chart("c", "", ("No values to draw.",))


def test_giant_changes_are_gathered_in_the_outer_bars_and_told():
    chart = changes("c", [0.1] * 500 + [-90.0, NAN], x_label="x", y_label="y")
    assert chart.notes == (
        "1 of 502 values are not finite and left out.",
        "The outer bars also hold 1 beyond ±0.15; the largest change is −90.",
    )
