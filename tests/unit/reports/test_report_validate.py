"""The validation report shows every rule with its rows, what the rows are, and where they lie."""

from __future__ import annotations

import numpy as np
from report_examples import FULL

from ytrainer_core import reports as r

WRITE = r.write_validate_report


def rule(name: str, severity: str, count: int, *samples: r.Sample) -> r.RuleLine:
    return r.RuleLine(name, severity, f"finds {name}", count, samples)


def test_errors_come_before_warnings_and_each_by_its_count(page):
    read = page(
        WRITE,
        counts={"read": 200, "quarantined": 5},
        rules=[
            rule("phone", "warning", 100),
            rule("too_long", "error", 1),
            rule("url", "warning", 120),
            rule("empty_answer", "error", 4),
        ],
    )
    assert read.cells()[:5] == [
        ["rule", "severity", "rows", "share", "what it finds"],
        ["empty_answer", "error", "4", "2.0 %", "finds empty_answer"],
        ["too_long", "error", "1", "0.5 %", "finds too_long"],
        ["url", "warning", "120", "60.0 %", "finds url"],
        ["phone", "warning", "100", "50.0 %", "finds phone"],
    ]
    assert "Rows with warnings were kept" in read.texts("main")[0]


def test_a_warning_shows_its_reason_and_the_text_of_its_rows(page):
    sample = r.Sample("a.jsonl:7", "turn 2 (assistant) holds a phone number.", '{"output": "call"}')
    read = page(WRITE, rules=[rule("phone", "warning", 3, sample)])
    assert "phone: 1 of 3 rows" in read.texts("summary")
    assert "a.jsonl:7turn 2 (assistant) holds a phone number." in read.texts("header")
    assert '{"output": "call"}' in read.texts("pre")


def test_a_warning_about_the_whole_corpus_shows_no_row(page):
    sample = r.Sample("data.train", "has 2 bad answers among 100.", "")
    read = page(WRITE, rules=[rule("label_imbalance", "warning", 1, sample)])
    assert "data.trainhas 2 bad answers among 100." in read.texts("header")
    assert read.texts("pre") == []


def test_rules_that_found_nothing_and_rules_that_were_off_are_told_apart(page):
    read = page(WRITE, rules=[rule("a", "error", 0), rule("b", "off", 0), rule("c", "off", 0)])
    assert read.texts("summary") == ["Rules that found nothing: 1", "Rules that were off: 2"]
    assert "b (off): finds b" in read.texts("li")


def test_kinds_languages_and_labels_are_counted_with_their_shares(page):
    read = page(
        WRITE,
        shapes={"messages": 10},
        kinds={"kto": 10},
        languages={"zh": 2, "en": 7, "": 1},
        labels={"good": 9, "bad": 1},
    )
    assert read.texts("h3") == ["Row shapes", "Kinds of rows", "Languages", "KTO labels"]
    bars = read.texts("div", "bars")
    assert bars[0] == "messages 10 (100.0 %)"
    assert bars[2] == "en 7 (70.0 %) zh 2 (20.0 %) uncertain 1 (10.0 %)"
    assert bars[3] == "good 9 (90.0 %) bad 1 (10.0 %)"


def test_what_was_not_counted_has_no_heading(page):
    assert page(WRITE, shapes={}).texts("h3") == []


def test_the_rarest_of_many_languages_are_gathered(page):
    many = {f"l{n}": 100 - n for n in range(20)}  # 100, 99, ... 81
    (bars,) = page(WRITE, shapes={}, languages=many).texts("div", "bars")
    assert "l10 90 " in bars
    assert "l11" not in bars
    assert "9 others 765 (" in bars  # 89 + 88 + ... + 81


def test_a_sampled_source_shows_its_rate_and_the_rows_taken(page):
    read = page(
        WRITE,
        sources=[
            r.SourceLine("a.jsonl", "ab" * 32, 1000, rate=0.25, taken=250),
            r.SourceLine("b.jsonl", "cd" * 32, 30),
        ],
    )
    assert read.cells()[-3:] == [
        ["file", "rows read", "rate", "rows taken", "sha256"],
        ["a.jsonl", "1,000", "0.25", "250", "abababababab…"],
        ["b.jsonl", "30", "1", "0", "cdcdcdcdcdcd…"],
    ]


def test_sources_that_were_read_in_full_need_no_rate(page):
    read = page(WRITE, sources=[r.SourceLine("a.jsonl", "ab" * 32, 1000)])
    assert read.cells()[-2:] == [
        ["file", "rows read", "sha256"],
        ["a.jsonl", "1,000", "abababababab…"],
    ]


def test_lengths_may_be_an_array_of_many_rows(page):
    lengths = np.arange(1, 100_001, dtype=np.int32)  # longer than 1,024: 98,976
    read = page(WRITE, lengths=lengths)
    assert (
        "98,976 of 100,000 rows (99.0 %) are longer than max_length 1,024."
        in (read.texts("main")[0])
    )
    assert ["tokens in all", "5,000,050,000"] in read.cells()
    assert ["99th percentile", "99,000"] in read.cells()
    assert len(read.raw) < 60_000


def test_a_report_of_the_earlier_fields_alone_is_still_written(page):
    assert FULL[WRITE].kinds == {}
    assert page(WRITE).texts("h3") == ["Row shapes"]
