"""A suspicious row on the page: marked where it is wrong, calm and cropped elsewhere."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from ytrainer_core.config.judging import ScoreMethod
from ytrainer_core.reports import score as s

WRITE = s.write_score_report
NAN = math.nan
WRONG = (("4", 0.914), ("5", 0.03), ("1", 0.02), ("9", 0.01))


def token(text: str, nll: float = 0.1, entropy: float = 0.2, **more) -> s.ScoredToken:
    return s.ScoredToken(text, nll, entropy, **more)


def answer(*parts: s.ScoredToken | str) -> list[s.ScoredToken]:
    return [token(part) if isinstance(part, str) else part for part in parts]


def scored(tokens, spans=(), **more) -> s.ScoredRow:
    return s.ScoredRow("a.jsonl:7", 4.2, True, "48 / 2 ?", tokens, spans, **more)


def show(page, **changes):
    """Write and read a page without charts, which take most of the time."""
    return page(WRITE, **{"comparison": None, "scores": [], "nll": [], **changes})


def marked(read, css_class: str) -> list[str]:
    """Texts of the answer's tokens of a class; the legend's have no title."""
    return [
        "".join(text)
        for tag, attributes, text in read.elements
        if tag == "i" and "title" in attributes and css_class in attributes.get("class", "").split()
    ]


CLIPS = answer("48/2 = ", "2", token("7", 8.0, 0.4, expected=WRONG), " clips", " in", " May")


def test_the_worst_word_stands_out_and_its_span_is_underlined(page):
    read = show(page, rows=[scored(CLIPS, [(1, 4)])])
    assert marked(read, "worst") == ["2", "7"]
    assert marked(read, "sus") == ["2", "7", " clips"]


def test_three_expected_words_and_their_chances_are_read_without_pointing(page):
    read = show(page, rows=[scored(CLIPS, [(1, 4)])])
    assert read.texts("p", "finding") == ["“27” where the model expected “24” (91 %)."]
    assert read.texts("span", "instead")[1:] == ["“24” 91 % · “25” 3 % · “21” 2 %"]
    assert "“24” 91 % · “25” 3 % · “21” 2 % clips in May" in read.texts("div", "tokens")[0]


def test_the_first_span_is_the_worst_and_three_are_told(page):
    tokens = [t for i in range(5) for t in answer(token(f" w{i}", 5.0 + i), ", ")]
    spans = [(6, 7), (0, 1), (8, 9), (2, 3)]
    read = show(page, rows=[scored(tokens, spans)])
    assert marked(read, "worst") == [" w3"]
    assert marked(read, "pin") == [" w0", " w4"]
    assert marked(read, "sus") == [" w0", " w1", " w3", " w4"]
    assert [text[:4] for text in read.texts("p", "finding")] == ["“w3”", "“w0”", "“w4”"]


def test_a_word_that_two_spans_share_is_told_once(page):
    read = show(page, rows=[scored(CLIPS, [(2, 3), (1, 2)])])
    assert len(read.texts("p", "finding")) == 1
    assert marked(read, "worst") == ["2", "7"]


def test_the_worst_word_may_stand_one_token_beside_its_smoothed_span(page):
    read = show(page, rows=[scored(CLIPS, [(3, 4)])])
    assert marked(read, "worst") == ["2", "7"]


def test_a_span_that_surprised_nobody_is_not_told(page):
    tokens = answer(token("a ", 5.0), "b ", "c ", "d ", "e ", token("f ", 3.0), "g ")
    read = show(page, rows=[scored(tokens, [(3, 4), (5, 6)])])
    assert marked(read, "worst") == ["f "]
    assert len(read.texts("p", "finding")) == 1
    assert marked(show(page, rows=[scored(tokens, [(3, 4)])]), "worst") == ["a "]


def test_without_spans_the_greatest_surprise_is_named_as_such(page):
    read = show(page, rows=[scored(CLIPS)], nll=[2.0])
    assert read.texts("p", "finding") == [
        "“27” where the model expected “24” (91 %).",
        "That is its greatest surprise; no stretch stands out.",
    ]


def test_a_row_far_worse_than_the_corpus_is_called_unlikely_as_a_whole(page):
    tokens = [token(f"x{i} ", 6.0, expected=WRONG) for i in range(4)]
    read = show(page, rows=[scored(tokens, [(2, 3), (0, 1)])], nll=[1.0, 2.0, NAN])
    assert read.texts("p", "finding") == [
        "The whole answer is unlikely: 6.00 nats per token, 1.50 in the corpus.",
        "“x1” where the model expected “4” (91 %).",  # one word is enough
    ]


def test_a_row_without_answer_tokens_is_shown_and_says_so(page):
    read = show(page, rows=[scored([], [(0, 3)])])
    assert read.texts("p", "finding") == ["The row has no answer tokens: nothing to judge."]
    assert read.texts("div", "tokens") == [""]


def test_tokens_that_share_a_character_are_shown_as_one_with_the_greater_loss(page):
    tokens = answer("a", token("答", 1.0, 0.3), token("", 7.0, 0.5, expected=(("\ufffd", 0.6),)))
    read = show(page, rows=[scored(tokens, [(2, 3)])])
    cells = [a for tag, a, _ in read.elements if tag == "i" and "title" in a]
    assert [c.get("class") for c in cells] == [None, "l4 e2 sus worst"]
    assert cells[1]["title"] == "loss 7.00 · entropy 0.50 nats · 2 tokens · expected “�” 60 %"


def test_a_loss_that_is_not_a_number_is_not_hidden_by_a_character_s_other_tokens(page):
    tokens = answer(token("答", 1.0), token("", NAN))
    read = show(page, rows=[scored(tokens)])
    assert marked(read, "lx") == ["答"]


def test_numbers_that_are_not_finite_are_marked_and_told(page):
    read = show(page, rows=[scored([token("a ", NAN, NAN), token("b ", math.inf)], [(0, 1)])])
    cells = [a for tag, a, _ in read.elements if tag == "i" and "title" in a]
    assert [c["class"] for c in cells] == ["lx ex sus", "l5 sus worst"]
    assert cells[0]["title"] == "loss NaN · entropy NaN nats"
    assert cells[1]["title"] == "loss ∞ · entropy 0.20 nats"


def test_a_long_answer_is_folded_except_around_what_stands_out(page):
    tokens = answer(*[token(f"t{i}, ", 9.0 if i == 500 else 0.1) for i in range(1000)])
    read = show(page, rows=[scored(tokens, [(500, 501)])])
    folds = read.texts("details", "gap")
    assert [fold.split("…t")[0] for fold in folds] == ["… 476 more tokens ", "… 459 more tokens "]
    assert folds[0].endswith("t475,")
    assert folds[1].startswith("… 459 more tokens …t541,")


def test_a_fold_of_a_few_tokens_is_not_worth_a_click(page):
    tokens = answer(*[token(f"t{i}, ", 9.0 if i in (40, 120) else 0.1) for i in range(201)])
    read = show(page, rows=[scored(tokens, [(40, 41), (120, 121)])])
    (fold,) = read.texts("details", "gap")  # 16 before the first and 15 between are left open
    assert fold.startswith("… 40 more tokens …t161,")


def test_a_suspicious_token_behind_the_limit_is_shown_and_the_rest_counted(page):
    tokens = answer(*[token(f"t{i}, ", 9.0 if i == 2999 else 0.1) for i in range(3000)])
    read = show(page, rows=[scored(tokens, [(2999, 3000)])])
    assert marked(read, "worst") == ["t2999, "]
    cells = [a for tag, a, _ in read.elements if tag == "i" and "title" in a]
    assert len(cells) == 1500
    (fold,) = read.texts("details", "gap")
    assert fold.startswith("… 2,975 more tokens …")
    assert fold.endswith("… 1,500 more tokens are not shown …")


def test_untrained_text_between_answers_is_read_but_not_judged(page):
    tokens = answer("Yes.", token("No.", before="\nuser: sure?\n"))
    read = show(page, rows=[scored(tokens)])
    assert read.texts("span", "between") == ["↵ user: sure?↵"]
    assert read.texts("div", "tokens")[0].startswith("Yes.↵ user: sure?↵ No.")


def test_every_method_s_score_is_shown_and_the_one_that_counts_stands_out(page):
    row = scored(CLIPS, scores={"mean_loss": 1.5, "anomaly": NAN})
    read = show(page, rows=[row], method="mean_loss")
    assert read.texts("p", "scores") == ["mean_loss 1.5 · anomaly NaN"]
    assert read.texts("span", "chosen") == ["mean_loss 1.5"]


@pytest.mark.parametrize("method", get_args(ScoreMethod))
def test_every_method_is_explained(page, method):
    assert s.METHODS[method] in show(page, method=method).texts("main")[0]


def test_a_threshold_that_flags_nothing_says_so(page):
    main = show(page, scores=[1.0] * 4, flag_threshold=math.inf).texts("main")[0]
    assert main.startswith("None of 4 rows is flagged.")


def test_the_band_of_losses_that_weighs_most_is_named(page):
    # weights at 0.25, 0.5 and 2 nats: 0, 0 and 1
    read = show(page, nll=[0.25, 0.5, 2.0, 2.0], weight_curve=[(0, 0), (1, 0), (2, 1), (3, 1)])
    assert (
        "the weight, 100.0 %, would fall on the 50.0 % of the tokens with a loss of 1.2–3 nats."
        in read.texts("main")[0]
    )
