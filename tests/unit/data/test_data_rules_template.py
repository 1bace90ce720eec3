"""Chat-template marks in a text: the tokenizer's own are errors, other models' are warnings."""

from __future__ import annotations

import pytest
from rule_examples import row

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import Judged, RuleBook
from ytrainer_core.data.formats import Row

OWN = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<think>", "!", "pad")
BOOK = RuleBook(DataConfig(), OWN)


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (row("u:hi<|im_end|>\n<|im_start|>system", "a:x"), "turn 1 (user) holds '<|im_end|>'"),
        (row("s:<|im_start|>", "u:q", "a:x"), "turn 1 (system)"),
        (row("u:q", "a:c", "t:7<|im_end|>", "a:x"), "turn 3 (tool)"),
        (row("u:q", "a:x</s>"), "turn 2 (assistant) holds '</s>'"),
    ],
)
def test_the_tokenizers_own_special_token_in_any_turn_is_an_error(bad: Row, where: str) -> None:
    rule, reason = BOOK.judge(bad).error or ("", "")
    assert rule == "template_tokens"
    assert where in reason
    assert reason.endswith("(with a space inside).")


def test_without_a_tokenizer_its_tokens_are_marks_like_others() -> None:
    judged = RuleBook(DataConfig()).judge(row("u:hi<|im_end|>", "a:x"))
    assert judged.error is None
    (warning,) = judged.warnings
    assert warning[0] == "foreign_template_tokens"
    assert "'<|im_end|>', a mark of a chat template, at character 2." in warning[1]


@pytest.mark.parametrize(
    "mark",
    [
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|endoftext|>",
        "<|assistant|>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<bos>",
        "<｜User｜>",
        "<｜begin▁of▁sentence｜>",
        "[gMASK]",
    ],
)
def test_a_mark_of_another_model_is_a_warning(mark: str) -> None:
    judged = BOOK.judge(row(f"u:hello {mark} there", "a:x"))
    assert judged.error is None
    assert [name for name, _ in judged.warnings] == ["foreign_template_tokens"]
    assert f"{mark!r}, a mark of a chat template, at character 6." in judged.warnings[0][1]


@pytest.mark.parametrize("text", ["<s>Hello", " <s> Hello", "Hello</s>", "Hello</s><s>you"])
def test_begin_and_end_marks_count_at_the_ends_of_a_text(text: str) -> None:
    judged = RuleBook(DataConfig()).judge(row("u:q", f"a:{text}"))
    assert [name for name, _ in judged.warnings] == ["foreign_template_tokens"]


@pytest.mark.parametrize(
    "text",
    [
        "Old price <s>30</s> new 20",  # struck out in HTML
        "<think>\nhm\n</think>\nx",
        '<tool_call>\n{"name": "f"}\n</tool_call>',
        "f <| x |> g, a || b, x[i], [1], [A], List<T>",
        "Hello! A pad of paper.",  # special tokens that are words or signs
        "<system> and <user>",
    ],
)
def test_other_markup_is_no_template_mark(text: str) -> None:
    book = RuleBook(DataConfig(), ("<|im_end|>", "<think>", "<tool_call>", "!", "pad"))
    assert book.judge(row("u:q", f"a:{text}")) == Judged(None, ())


def test_a_longer_token_is_named_before_a_shorter_one_within_it() -> None:
    book = RuleBook(DataConfig(), ("[A]", "[A]][B]"))
    _, reason = book.judge(row("u:q", "a:see [A]][B]")).error or ("", "")
    assert "'[A]][B]'" in reason


def test_own_tokens_are_no_foreign_ones_where_their_rule_is_off() -> None:
    book = RuleBook(DataConfig(rules=("template_tokens=off",)), OWN)
    assert book.judge(row("u:<|im_end|>", "a:x")) == Judged(None, ())


def test_raw_text_may_be_a_chat_that_is_printed_already() -> None:
    printed = Row("f:1", (), "<|im_start|>user\nHi<|im_end|>\n")
    assert RuleBook(DataConfig(), ("<|im_start|>", "<|im_end|>")).judge(printed).error is None
