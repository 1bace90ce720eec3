"""What each report must show of its data."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from report_examples import CURVE, FULL, NAN

from ytrainer_core import reports as r
from ytrainer_core.reports.figures import (
    Chart,
    Line,
    curves,
    distribution,
    loss_bands,
    token_losses,
)
from ytrainer_core.reports.render import clip, inline, number, percent, visible, whole


def test_validate_says_how_many_rows_were_dropped_and_shows_the_samples(page):
    read = page(r.write_validate_report)
    assert "567 of 1,234,567 rows (< 0.1 %) were dropped" in read.texts("main")[0]
    assert "1 of 4 rows (25.0 %) are longer than max_length 1,024." in read.texts("main")[0]
    assert "empty_answer: 1 of 567 rows" in read.texts("summary")
    assert "Rules that found nothing: 1" in read.texts("summary")


def test_validate_marks_trained_text_and_no_other(page):
    read = page(
        r.write_validate_report, previews=[r.Preview("a:1", [("ask", False), ("say\n", True)])]
    )
    assert read.texts("mark")[1:] == ["say↵"]  # the first is the legend's
    assert read.texts("div", "tokens") == ["asksay↵"]


def test_score_colours_tokens_by_loss_and_entropy_and_shows_the_numbers(page):
    elements = page(r.write_score_report, comparison=None).elements
    tokens = [a for tag, a, _ in elements if tag == "i" and "title" in a]
    assert [a.get("class") for a in tokens] == [None, "l4 e1 sus", "l5 e5 sus worst", "lx ex"]
    assert tokens[0]["title"] == "loss 0.10 · entropy 0.10 nats"
    assert tokens[1]["title"].startswith("loss 7.00 · entropy 0.30 nats · expected “<script>")
    assert tokens[3]["title"] == "loss NaN · entropy NaN nats"


def test_score_counts_the_rows_at_or_above_the_threshold(page):
    main = page(r.write_score_report, scores=[1.0, 4.0, 5.0, NAN]).texts("main")[0]
    assert "2 of 4 rows lie at or above the flag threshold of 4." in main
    assert "1 of 4 values are not finite and left out." in main


def test_train_draws_the_curves_it_has_rows_for(page):
    captions = page(r.write_train_report).texts("figcaption")
    assert captions[:3] == ["Loss", "Learning rate", "Mean weight on the token losses"]
    only_loss = page(r.write_train_report, history=[{"step": 1, "loss": 2.0}], nll_before=[])
    assert only_loss.texts("figcaption") == ["Loss", "Losses of single tokens"]
    assert "held-out nll, general" in page(r.write_train_report).texts("svg")[0]


def test_train_says_aloud_that_a_loss_was_not_a_number(page):
    (fault,) = page(r.write_train_report).texts("div", "verdict")
    assert "loss was not finite in 1 of 2 log rows, first at step 1,000." in fault
    assert not page(r.write_train_report, history=[{"step": 1, "loss": 2.0}]).texts(
        "div", "verdict"
    )


def test_order_shows_both_ends(page):
    read = page(r.write_order_report)
    assert "4 rows in mode mean_loss" in read.texts("main")[0]
    assert read.texts("h2") == ["Trained first", "Trained last"]
    assert "difficulty NaN" in read.texts("article")[1]


def test_loss_bands_give_shares_of_tokens_and_of_the_summed_weight():
    # weights 0, 0.5, 1 at 0, 0.25, 0.5 nats: the two tokens below 0.5 hold a third of the weight
    bands = loss_bands({"all": [0.0, 0.25, 0.5, 99.0]}, [(0.0, 0.0), (0.5, 1.0), (0.6, 0.0)])
    assert [band.tokens for band in bands[:3]] == [(0.5,), (0.25,), (0.0,)]
    assert bands[-1].label == "15 and more"
    assert bands[-1].tokens == (0.25,)
    assert bands[0].weight == pytest.approx((1 / 3,))
    assert bands[1].weight == pytest.approx((2 / 3,))


def test_loss_bands_keep_a_column_for_a_series_of_nan_alone():
    band = loss_bands({"before": [1.0], "after": [NAN]}, CURVE)[1]
    assert band.tokens[0] == 1.0
    assert math.isnan(band.tokens[1])
    assert math.isnan(band.weight[1])


def test_charts_say_what_they_left_out_or_gathered():
    assert distribution("d", [1.0] * 999 + [1e6, NAN], x_label="x").notes == (
        "1 of 1,001 values are not finite and left out.",
        "The last bar also holds 1 beyond 1.5; the largest is 1,000,000.",
    )
    assert token_losses("t", {"all": [1.0, 20.0]}, CURVE).notes == (
        "all: the last bar also holds 1 beyond 15 nats.",
    )
    assert curves("c", [Line("loss", [1, 2], [1.0, NAN])], x_label="step", y_label="y").notes == (
        "loss: not finite at 1 of 2 points, the first at step 2.",
    )
    assert distribution("d", [], x_label="x") == Chart("d", "", ("No values to draw.",))


def test_long_curves_are_thinned_so_that_files_stay_small():
    values = np.sin(np.arange(100_000))
    drawn = curves("c", [Line("y", range(100_000), values)], x_label="row", y_label="y")
    assert len(drawn.svg) < 100_000
    assert drawn.notes == ("Drawn as mean and range of 400 equal stretches.",)


def test_a_hundred_thousand_token_losses_make_a_small_page(page):
    nll = np.random.default_rng(0).exponential(1.0, 100_000)
    assert len(page(r.write_score_report, nll=nll, comparison=None).raw) < 60_000


def test_charts_take_their_colours_from_the_page():
    svg = token_losses("t", {"a": [1.0], "b": [2.0]}, CURVE).svg
    assert "var(--ink)" in svg
    assert not re.findall(r"(?:fill|stroke): (#\w+)", svg)


@pytest.mark.parametrize(
    "value, shown",
    [
        (1234567.0, "1,234,567"),
        (0.123456, "0.1235"),
        (1e-5, "1.00e-05"),
        (-0.5, "−0.5"),
        (-0.0, "0"),
        (NAN, "NaN"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_written_for_people(value, shown):
    assert number(value) == shown


def test_shares_counts_and_cut_text_hide_nothing():
    assert (percent(0.0), percent(0.0001), percent(0.5)) == ("0.0 %", "< 0.1 %", "50.0 %")
    assert (whole(1234567), whole(NAN)) == ("1,234,567", "NaN")
    assert clip("abcdef", 4) == "abcd … (2 more characters)"
    assert inline("a\r\nb\tc") == "a↵b⇥c"
    assert visible("<\n") == '&lt;<span class="ws">↵</span>\n'


def test_every_report_dataclass_is_frozen():
    for data in FULL.values():
        with pytest.raises(AttributeError):
            data.title = "changed"
