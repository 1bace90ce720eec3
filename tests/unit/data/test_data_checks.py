"""A row is judged by the rules that are on; each says what, where, and how to mend it."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import pytest
from data_examples import SHARED, needs_shared
from rule_examples import only, row, turns

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import RULES, Judged, RuleBook
from ytrainer_core.data.formats import Row, Turn
from ytrainer_core.errors import ConfigError

BOOK = RuleBook(DataConfig(purpose="auto"))


@pytest.mark.parametrize(
    ("bad", "rule", "said"),
    [
        (row(), "no_assistant_turn", "no turns at all"),
        (row("s:x", "u:q"), "no_assistant_turn", "system, user"),
        (row("s:x", extra="{}"), "no_assistant_turn", "system"),
        (row("a:x"), "wrong_role_order", "turn 1 is 'assistant' at the start"),
        (row("u:q", "u:q", "a:x"), "wrong_role_order", "turn 2 is 'user' after 'user'"),
        (row("u:q", "a:x", "a:y"), "wrong_role_order", "turn 3"),
        (row("u:q", "t:7", "a:x"), "wrong_role_order", "turn 2 is 'tool'"),
        (row("u:q", "s:s", "a:x"), "wrong_role_order", "turn 2 is 'system'"),
        (
            row("u:q", "a:x", rejected=turns("a:y", "a:z")),
            "wrong_role_order",
            "the rejected answer's turn 2 is 'assistant' after 'assistant'",
        ),
        (row("u: \n", "a:x"), "empty_prompt", "turn 1 (user) is without text"),
        (row("u:q", "a:\n"), "empty_answer", "turn 2 (assistant) is without text"),
        (row("u:q", "a:", "u:q", "a:x"), "empty_answer", "turn 2 (assistant)"),
        (row("u:q", "a:x", rejected=turns("a: ")), "empty_answer", "the rejected answer's turn 1"),
        (row("u:q", "a:x ", rejected=turns("a:x\n")), "same_answers", "turn 2 (assistant)"),
        (row("u:q", "a:ab\x00c"), "control_characters", "turn 2 (assistant) holds"),
        (row("u:\x1b[0mq", "a:x"), "control_characters", "U+001B at character 0"),
        (row(text="it\x92s"), "control_characters", "the text holds the control character U+0092"),
        (row("u:q", "a:caf\ufffd"), "replacement_characters", "at character 3"),
        (row(text="\ufffd"), "replacement_characters", "the text"),
        (
            row("u:q", "a:x", rejected=turns("a:y\x00")),
            "control_characters",
            "the rejected answer's turn 1 (assistant)",
        ),
    ],
)
def test_a_faulty_row_breaks_its_rule_and_the_reason_says_where(
    bad: Row, rule: str, said: str
) -> None:
    broken = BOOK.judge(bad).error
    assert broken is not None
    assert broken[0] == rule
    assert said in broken[1]
    assert broken[1].endswith(".")


@pytest.mark.parametrize(
    "good",
    [
        row("u:q", "a:x"),
        row("s:s", "u:q", "a:call", "t:7", "t:8", "a:x", "u:q", "a:y"),
        row("u:q", "a:x", "u:and?"),
        row("u:q", "a:call", "t:", "a:x"),
        row("u:a\tb\r\nc\x0c\x85", "a:é 你好 👍"),
        row(text="a document"),
        row("u:q", extra="{}"),
        row("u:q", "a:call", "t:7", extra='{"answer": "8"}'),
        row("u:q", "a:x", label=False),
        row("u:q", "a:x", rejected=turns("a:y")),
        row("u:q", "a:call", "t:7", "a:x", rejected=turns("a:call", "t:7", "a:y")),
    ],
)
def test_a_good_row_breaks_no_rule(good: Row) -> None:
    assert BOOK.judge(good) == Judged(None, ())


QUESTION = row("u:q", extra="{}")
ANSWERED = row("u:q", "a:x")
BAD = row("u:q", "a:x", label=False)
GOOD = row("u:q", "a:x", label=True)
PAIR = row("u:q", "a:x", rejected=turns("a:y"))
DOCUMENT = row(text="a document")


@pytest.mark.parametrize(
    ("purpose", "fit", "unfit"),
    [
        ("auto", [QUESTION, ANSWERED, BAD, GOOD, PAIR, DOCUMENT], []),
        ("sft", [ANSWERED, GOOD, PAIR, DOCUMENT], [QUESTION]),
        ("kto", [BAD, GOOD], [QUESTION, ANSWERED, PAIR, DOCUMENT]),
        ("preference", [PAIR], [QUESTION, ANSWERED, BAD, GOOD, DOCUMENT]),
        ("rl", [QUESTION, ANSWERED, BAD, GOOD, PAIR, row("u:q")], [DOCUMENT]),
    ],
)
def test_a_row_must_have_what_its_purpose_needs(
    purpose: str, fit: list[Row], unfit: list[Row]
) -> None:
    book = RuleBook(DataConfig(purpose=purpose))  # type: ignore[arg-type]
    assert [book.judge(each).error for each in fit] == [None] * len(fit)
    for each in unfit:
        rule, reason = book.judge(each).error or ("", "")
        assert rule == "wrong_purpose"
        assert f"data.purpose={purpose} needs" in reason


def test_a_bad_answer_is_not_imitated_but_is_used_by_kto() -> None:
    rule, reason = RuleBook(DataConfig(purpose="sft")).judge(BAD).error or ("", "")
    assert rule == "not_for_training"
    assert reason.endswith("train with it by kto.")
    assert RuleBook(DataConfig(purpose="kto")).judge(BAD).error is None


def test_a_question_without_further_columns_is_one_only_where_the_purpose_says_so() -> None:
    assert BOOK.judge(row("u:q")).error is not None
    assert RuleBook(DataConfig(purpose="rl")).judge(row("u:q")).error is None


# --- severities ----------------------------------------------------------------------------------


def test_rules_are_errors_but_for_the_listed_warnings() -> None:
    assert all(rule.name == name and rule.description for name, rule in RULES.items())
    assert {name for name, rule in RULES.items() if rule.severity == "warning"} == {
        "repetition",
        "secret",
        "id_number",
        "phone",
        "email",
        "url",
        "foreign_template_tokens",
        "near_duplicate",
        "near_leakage",
        "truncated",
        "split",
        "label_imbalance",
    }


MAIL = row("u:q", "a:Write to jo@shop.de.")


def test_a_warning_keeps_the_row_an_error_takes_it_out_and_off_is_silent() -> None:
    (warning,) = BOOK.judge(MAIL).warnings
    assert warning[0] == "email"
    assert RuleBook(DataConfig(rules=("email=error",))).judge(MAIL) == Judged(warning, ())
    assert RuleBook(DataConfig(rules=("email=off",))).judge(MAIL) == Judged(None, ())


def test_a_row_that_is_out_has_one_error_and_no_warnings() -> None:
    both = row("u:", "a:", "u:q", "a:jo@shop.de")
    assert BOOK.judge(both).error == (
        "empty_prompt",
        "turn 1 (user) is without text. Write the prompt, or leave the row out.",
    )
    assert BOOK.judge(both).warnings == ()


def test_a_kept_row_has_all_its_warnings_in_the_order_of_the_rules() -> None:
    said = "a:See https://shop.de or write to jo@shop.de."
    assert [name for name, _ in BOOK.judge(row("u:q", said)).warnings] == ["email", "url"]


def test_severity_is_the_configs_or_else_the_rules_own() -> None:
    book = RuleBook(DataConfig(rules=("leakage=warning", "url=off")))
    assert book.severity("leakage") == "warning"
    assert book.severity("url") == "off"
    assert book.severity("near_duplicate") == "warning"
    assert book.severity("too_long") == "error"
    assert book.severity("language") == "off"
    assert RuleBook(DataConfig(languages=("en",))).severity("language") == "error"
    with pytest.raises(KeyError):
        book.severity("no_such_rule")


def test_unknown_rules_are_refused_all_at_once_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError) as raised:
        RuleBook(DataConfig(rules=("mojibak=off", "emails=error", "q=off")))
    first, second, third = raised.value.faults
    assert first == "data.rules: 'mojibak' is no rule. Did you mean 'mojibake'?"
    assert "Did you mean 'email'?" in second
    assert "Rules are unreadable_row, " in third


def test_a_row_that_cannot_be_kept_cannot_be_a_warning() -> None:
    with pytest.raises(ConfigError, match="'unreadable_row' must stay an error"):
        RuleBook(DataConfig(rules=("unreadable_row=warning",)))
    assert RuleBook(DataConfig(rules=("unreadable_row=error",))).severity("unreadable_row")


def test_a_pickled_book_judges_alike() -> None:
    config = DataConfig(rules=("email=error",), purpose="kto", languages=("en",))
    book = RuleBook(config, ("<|im_end|>",))
    again = pickle.loads(pickle.dumps(book))
    rows = [MAIL, GOOD, row("u:q", "a:<|im_end|>", label=True), row("u:q", "a:jo@a.de", label=True)]
    judged = [book.judge(each) for each in rows]
    assert [one.error and one.error[0] for one in judged] == [
        "wrong_purpose",
        None,
        "template_tokens",
        "email",
    ]
    assert [again.judge(each) for each in rows] == judged


# --- the shared corpora --------------------------------------------------------------------------


@needs_shared
def test_clean_arithmetic_breaks_no_rule_at_all() -> None:
    lines = (SHARED / "gsm8k_train.jsonl").read_text(encoding="utf-8").rstrip().split("\n")
    book = RuleBook(DataConfig(purpose="sft", languages=("en",)), ("<|im_start|>", "<|im_end|>"))
    broken: Counter[str] = Counter()
    for line in lines:
        fields = json.loads(line)
        turns_ = (Turn("user", fields["question"]), Turn("assistant", fields["answer"]))
        judged = book.judge(Row("f", turns_))
        broken.update(rule for rule, _ in (*filter(None, [judged.error]), *judged.warnings))
    assert len(lines) > 7000
    assert broken == {}


@pytest.mark.parametrize("rule", ["phone", "url", "repetition"])
def test_one_rule_can_stand_alone(rule: str) -> None:
    assert only(rule).judge(MAIL) == Judged(None, ())
