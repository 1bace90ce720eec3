"""Each rule catches its fault, says where, and lets the row beside it pass."""

from __future__ import annotations

import pytest

from ytrainer_core.data.checks import (
    RULES,
    Index,
    Verdict,
    compare_rows,
    first_error,
    leakage,
    verdict_reason,
    warnings_of,
)
from ytrainer_core.data.formats import Row, Turn

NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def row(*turns: str, text: str = "") -> Row:
    """'u:hello' -> user says hello."""
    return Row("f:1", tuple(Turn(NAMES[turn[0]], turn[2:]) for turn in turns), text)


@pytest.mark.parametrize(
    ("bad", "rule", "said"),
    [
        (row(), "no_assistant_turn", "no turns at all"),
        (row("s:x", "u:q"), "no_assistant_turn", "system, user"),
        (row("a:x"), "wrong_role_order", "turn 1 is 'assistant' at the start"),
        (row("u:q", "u:q", "a:x"), "wrong_role_order", "turn 2 is 'user' after 'user'"),
        (row("u:q", "a:x", "a:y"), "wrong_role_order", "turn 3"),
        (row("u:q", "t:7", "a:x"), "wrong_role_order", "turn 2 is 'tool'"),
        (row("u:q", "s:s", "a:x"), "wrong_role_order", "turn 2 is 'system'"),
        (row("u: \n", "a:x"), "empty_prompt", "user turn"),
        (row("u:q", "a:\n"), "empty_answer", "assistant turn"),
        (row("u:q", "a:", "u:q", "a:x"), "empty_answer", "assistant turn"),
        (row("u:q", "a:ab\x00c"), "control_characters", "turn 2 (assistant) holds"),
        (row("u:\x1b[0mq", "a:x"), "control_characters", "U+001B at character 0"),
        (row(text="it\x92s"), "control_characters", "the text holds the control character U+0092"),
        (row("u:q", "a:caf\ufffd"), "replacement_characters", "U+FFFD at character 3"),
        (row(text="\ufffd"), "replacement_characters", "the text"),
    ],
)
def test_a_faulty_row_breaks_its_rule_and_the_reason_says_where(
    bad: Row, rule: str, said: str
) -> None:
    broken = first_error(bad)
    assert broken is not None
    assert broken[0] == rule
    assert said in broken[1]


@pytest.mark.parametrize(
    "good",
    [
        row("u:q", "a:x"),
        row("s:s", "u:q", "a:call", "t:7", "t:8", "a:x", "u:q", "a:y"),
        row("u:q", "a:x", "u:and?"),
        row("u:q", "a:call", "t:", "a:x"),
        row("u:a\tb\r\nc\x0c\x85", "a:é 你好 👍"),
        row(text="a document"),
    ],
)
def test_a_good_row_breaks_no_rule(good: Row) -> None:
    assert first_error(good) is None
    assert warnings_of(good) == ()


@pytest.mark.parametrize(
    ("answer", "warned"),
    [
        ("I am sorry, " * 20, True),
        ("我不知道。" * 20, True),
        ("yes " * 39, False),  # too short to tell
        (" ".join(f"word{n}" for n in range(200)), False),
        ("\n".join(f"{n} times 7 is {7 * n}" for n in range(40)), False),
    ],
)
def test_an_answer_in_a_loop_is_a_warning(answer: str, warned: bool) -> None:
    looping = row("u:q", f"a:{answer}")
    assert warnings_of(looping) == (("repetition",) if warned else ())
    assert first_error(looping) is None


def test_every_rule_is_listed_under_its_name_with_a_severity_and_a_description() -> None:
    warnings = {name for name, rule in RULES.items() if rule.severity == "warning"}
    assert warnings == {"repetition", "truncated"}
    assert all(rule.name == name and rule.description for name, rule in RULES.items())


def index(*rows: Row) -> Index:
    made = Index()
    for position, each in enumerate(rows):
        made.add(position, each)
    return made


def test_the_later_of_two_equal_rows_is_the_duplicate() -> None:
    rows = index(row("u:q", "a:x"), row("u:r", "a:x"), row("u:q ", "a:x\n"), row("u:q", "a:x"))
    assert compare_rows(rows) == {
        2: Verdict("exact_duplicate", (0,)),
        3: Verdict("exact_duplicate", (0,)),
    }


def test_equal_documents_are_duplicates_and_a_document_is_not_its_conversation() -> None:
    assert compare_rows(index(row(text="x"), row(text="y"), row(text="x"))) == {
        2: Verdict("exact_duplicate", (0,))
    }


def test_all_rows_of_a_prompt_with_two_answers_contradict_each_other() -> None:
    rows = index(
        row("u:q", "a:x"),
        row("u:other", "a:x"),
        row("u:q", "a:y"),
        row("u:q", "a:x"),
        row("u:q", "a:z"),
    )
    verdicts = compare_rows(rows)
    assert {p: v.rule for p, v in verdicts.items()} == {
        0: "contradicting_answers",
        2: "contradicting_answers",
        3: "exact_duplicate",
        4: "contradicting_answers",
    }
    reason = verdict_reason(2, verdicts[2], lambda p: f"f:{p}")
    assert "same prompt as f:0, f:4, but another answer" in reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row("u:q", "a:x"), row("s:s", "u:q", "a:y")),  # another system turn, another task
        (row("u:q", "a:x", "u:r", "a:y"), row("u:q", "a:z", "u:r", "a:w")),  # another talk before
        (row("u:q", "a:x"), row("u:q", "a:x", "u:r", "a:y")),
    ],
)
def test_answers_in_another_context_do_not_contradict(one: Row, other: Row) -> None:
    assert compare_rows(index(one, other)) == {}


def test_a_training_row_leaks_by_its_prompt_or_in_full() -> None:
    train = index(row("u:q", "a:x"), row("u:r", "a:x"), row("u:s", "a:x"), row(text="doc"))
    held_out = index(row("u:s", "a:other"), row("u:q", "a:x"), row(text="doc"))
    verdicts = leakage(train, held_out)
    assert {p: tuple(v.others) for p, v in verdicts.items()} == {0: (1,), 2: (0,), 3: (2,)}
    assert "validation row v:1," in verdict_reason(0, verdicts[0], lambda p: f"v:{p}")


def test_a_reason_names_three_others_and_counts_the_rest() -> None:
    verdict = Verdict("contradicting_answers", range(6))
    reason = verdict_reason(0, verdict, lambda p: f"f:{p}")
    assert "f:1, f:2, f:3 and 2 more" in reason
