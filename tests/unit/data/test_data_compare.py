"""Comparing rows: equal, contradicting, near, leaking; and the same as comparing one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.data.compare import (
    BANDS,
    Fingerprint,
    Index,
    Verdict,
    Verdicts,
    compare_rows,
    fingerprint,
    leakage,
    near_text,
    verdict_reason,
)
from ytrainer_core.data.formats import Row, Turn

NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(*said: str) -> tuple[Turn, ...]:
    """'u:hello' -> user says hello."""
    return tuple(Turn(NAMES[turn[0]], turn[2:]) for turn in said)


def row(*said: str, text: str = "", label: bool | None = None, extra: str = "") -> Row:
    return Row("f:1", turns(*said), text, label, extra=extra)


def pair(prompt: str, chosen: str, rejected: str) -> Row:
    return Row("f:1", turns(prompt, chosen), rejected=turns(rejected))


def index(rows: Sequence[Row], near: bool = True) -> Index:
    return Index.build(range(len(rows)), [fingerprint(row, near=near) for row in rows])


def compared(
    *rows: Row, near: float | None = None, severity: Callable[[str], str] = lambda rule: "error"
) -> Verdicts:
    return compare_rows(
        index(rows), near_similarity=near, text_of=lambda p: near_text(rows[p]), severity=severity
    )


def rules(verdicts: Verdicts) -> dict[int, str]:
    return {position: verdict.rule for position, verdict in verdicts.items()}


def leaking(train: Sequence[Row], held_out: Sequence[Row], near: float | None = None) -> Verdicts:
    return leakage(
        index(train),
        index(held_out),
        near_similarity=near,
        text_of=lambda p: near_text(train[p]),
        validation_text_of=lambda p: near_text(held_out[p]),
    )


LONG = [f"w{n}" for n in range(104)]


def long(*changed: int, words: list[str] = LONG) -> str:
    """104 words (100 shingles), those at some places changed."""
    return " ".join(f"new{n}" if n in changed else word for n, word in enumerate(words))


# --- equal and contradicting ---------------------------------------------------------------------


def test_the_later_of_two_equal_rows_is_the_duplicate() -> None:
    verdicts = compared(
        row("u:q", "a:x"), row("u:r", "a:x"), row("u:q ", "a:x\n"), row("u:q", "a:x")
    )
    assert verdicts == {2: Verdict("exact_duplicate", (0,)), 3: Verdict("exact_duplicate", (0,))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row("u:q", "a:x"), row(text="q x")),
        (row("u:x"), row(text="x")),
        (row("u:ab", "a:c"), row("u:a", "a:bc")),
        (row("u:q", "a:x"), row("s:q", "a:x")),
        (row("u:q", "a:x"), row("u:q", "a:x", label=True)),
        (row("u:q", "a:x", label=False), row("u:q", "a:x", label=True)),
        (row("u:q", "a:x"), pair("u:q", "a:x", "a:y")),
        (pair("u:q", "a:x", "a:y"), pair("u:q", "a:x", "a:z")),
        (pair("u:q", "a:x", "a:y"), pair("u:q", "a:y", "a:x")),
        (row(text="x", label=False), row(text="x", label=True)),
    ],
)
def test_rows_that_differ_in_turns_text_label_or_rejected_are_not_equal(
    one: Row, other: Row
) -> None:
    assert fingerprint(one, near=False).whole != fingerprint(other, near=False).whole


@pytest.mark.parametrize(
    "same",
    [
        row(text="x"),
        row("u:q", "a:x", label=False),
        pair("u:q", "a:x", "a:y"),
        row("u:q", extra="{}"),
    ],
)
def test_rows_of_every_kind_are_duplicates_of_their_like(same: Row) -> None:
    assert rules(compared(same, row("u:other", "a:z"), same)) == {2: "exact_duplicate"}


def test_all_rows_of_a_prompt_with_two_answers_contradict_each_other() -> None:
    verdicts = compared(
        row("u:q", "a:x"),
        row("u:other", "a:x"),
        row("u:q", "a:y"),
        row("u:q", "a:x"),
        row("u:q", "a:z"),
    )
    assert rules(verdicts) == {
        0: "contradicting_answers",
        2: "contradicting_answers",
        3: "exact_duplicate",
        4: "contradicting_answers",
    }
    reason = verdict_reason(verdicts[2], lambda p: f"f:{p}")
    assert "same prompt as f:0, f:4, but another answer" in reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row("u:q", "a:x"), row("s:s", "u:q", "a:y")),  # another system turn, another task
        (row("u:q", "a:x", "u:r", "a:y"), row("u:q", "a:z", "u:r", "a:w")),  # another talk before
        (row("u:q", "a:x"), row("u:q", "a:x", "u:r", "a:y")),
        (row("u:q", "a:x", label=True), row("u:q", "a:y", label=True)),  # both may be good
        (row("u:q", "a:x", label=True), row("u:q", "a:y", label=False)),
        (pair("u:q", "a:x", "a:y"), pair("u:q", "a:z", "a:y")),
        (row("u:q", extra="{}"), row("u:q", "a:x")),  # a prompt has no answer
        (row("u:q", "a:x"), row("u:q", "a:y", label=True)),
        (row("u:q", "a:x"), pair("u:q", "a:y", "a:z")),
        (row(text="one"), row(text="two")),
        (row("a:x"), row("a:y")),  # answers to nothing
    ],
)
def test_rows_that_do_not_contradict(one: Row, other: Row) -> None:
    assert compared(one, other) == {}


def test_the_same_answer_called_good_and_bad_is_a_contradiction() -> None:
    verdicts = compared(
        row("u:q", "a:x", label=True),
        row("u:q", "a:y", label=False),
        row("u:q", "a:x", label=False),
        row("u:r", "a:x", label=False),
    )
    assert rules(verdicts) == {0: "contradicting_answers", 2: "contradicting_answers"}
    assert "same prompt as f:0, but another answer or label" in verdict_reason(
        verdicts[2], lambda p: f"f:{p}"
    )


def test_a_reason_names_three_others_and_counts_the_rest() -> None:
    verdicts = compared(*(row("u:q", f"a:{n}") for n in range(7)))
    first, last = (verdict_reason(verdicts[p], lambda at: f"f:{at}") for p in (0, 6))
    assert "same prompt as f:1, f:2, f:3 and 3 more, but" in first
    assert "same prompt as f:0, f:1, f:2 and 3 more, but" in last
    four = compared(*(row("u:q", f"a:{n}") for n in range(4)))
    assert "f:0, f:1, f:2, but" in verdict_reason(four[3], lambda at: f"f:{at}")


_said = st.sampled_from(["u:q", "u:r", "s:s", "a:x", "a:y"])
_rows = st.one_of(
    st.builds(lambda prompt, answer: row(*prompt, answer), st.lists(_said, max_size=2), _said),
    st.builds(
        lambda prompt, answer, label: row(prompt, answer, label=label),
        st.sampled_from(["u:q", "u:r"]),
        st.sampled_from(["a:x", "a:y"]),
        st.booleans(),
    ),
    st.builds(pair, st.just("u:q"), st.sampled_from(["a:x", "a:y"]), st.just("a:z")),
    st.builds(lambda text: row(text=text), st.sampled_from(["x", "y"])),
)


def content(row: Row) -> object:
    return row.turns, row.text, row.label, row.rejected


def contradict(one: Row, other: Row) -> bool:
    if {one.kind, other.kind} == {"kto"}:
        return one.turns == other.turns and one.label != other.label
    if {one.kind, other.kind} != {"conversation"}:
        return False
    asked = []
    for each in (one, other):
        answers = [i for i, turn in enumerate(each.turns) if turn.role == "assistant"]
        asked.append(each.turns[: answers[-1]] if answers else ())
    return bool(asked[0]) and asked[0] == asked[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rows=st.lists(_rows, max_size=14))
def test_sorting_finds_what_comparing_every_pair_finds(rows: list[Row]) -> None:
    expected: dict[int, str] = {}
    for later, earlier in itertools.product(range(len(rows)), repeat=2):
        if earlier < later and content(rows[earlier]) == content(rows[later]):
            expected[later] = "exact_duplicate"
    left = [position for position in range(len(rows)) if position not in expected]
    for one, other in itertools.permutations(left, 2):
        if contradict(rows[one], rows[other]):
            expected[one] = "contradicting_answers"
    assert rules(compared(*rows)) == expected


# --- near ----------------------------------------------------------------------------------------


def test_a_later_row_with_nearly_the_same_words_is_a_near_duplicate() -> None:
    rows = [row(f"u:{long()}", "a:x"), row("u:q", "a:x"), row(f"u:{long(0, 1)}", "a:x")]
    assert compared(*rows) == {}
    verdicts = compared(*rows, near=0.9)
    # 105 words with the answer: 101 shingles, two of them changed
    assert verdicts == {2: Verdict("near_duplicate", (0,), 0, 99 / 103)}
    assert "shares 96.1% of its word sequences with f:0." in verdict_reason(
        verdicts[2], lambda p: f"f:{p}"
    )


def test_documents_conversations_labels_and_rejected_answers_all_count_as_text() -> None:
    def near(one: Row, other: Row) -> dict[int, str]:
        return rules(compared(one, other, near=0.9))

    assert near(row(text=long()), row(text=long(0))) == {1: "near_duplicate"}
    good = row("u:q", f"a:{long()}", label=True)
    assert near(good, row("u:q", f"a:{long(0)}", label=True)) == {1: "near_duplicate"}
    assert near(good, row("u:q", f"a:{long(0)}", label=False)) == {}
    assert near(row("u:q", f"a:{long()}"), row(text=f"q {long()}")) == {}
    worse = " ".join(f"worse{n}" for n in range(20))
    assert near(pair("u:q", f"a:{long()}", "a:no"), pair("u:q", f"a:{long()}", f"a:{worse}")) == {}


def test_a_common_system_turn_makes_no_row_near_another() -> None:
    one, other = ("u:what is the name?", "a:Anna"), ("u:which town is it?", "a:Lund")
    assert compared(row(f"s:{long()}", *one), row(f"s:{long()}", *other), near=0.5) == {}


def test_rows_that_are_out_already_are_no_near_duplicates_and_have_none() -> None:
    one, other = row(f"u:{long()}", "a:x"), row(f"u:{long()}", "a:y")  # contradict each other
    assert rules(compared(one, other, row(f"u:{long(0)}", "a:x"), near=0.9)) == {
        0: "contradicting_answers",
        1: "contradicting_answers",
    }
    assert rules(compared(one, one, near=0.9)) == {1: "exact_duplicate"}


# --- severities ----------------------------------------------------------------------------------


def test_a_copy_that_stays_contradicts_like_the_row_it_copies() -> None:
    rows = [row("u:q", "a:x"), row("u:q", "a:x"), row("u:q", "a:y"), row("u:r", "a:x")]
    off = {"exact_duplicate": "off"}
    assert rules(compared(*rows, severity=lambda rule: off.get(rule, "error"))) == dict.fromkeys(
        (0, 1, 2), "contradicting_answers"
    )
    warned = {"exact_duplicate": "warning"}
    both = compared(*rows, rows[3], severity=lambda rule: warned.get(rule, "error"))
    assert rules(both) == {
        **dict.fromkeys((0, 1, 2), "contradicting_answers"),  # an error before a warning
        4: "exact_duplicate",
    }


def test_rules_that_are_off_find_nothing() -> None:
    rows = [row("u:q", "a:x"), row("u:q", "a:x"), row("u:q", "a:y")]
    assert compared(*rows, severity=lambda rule: "off", near=0.9) == {}


# --- leakage -------------------------------------------------------------------------------------


def test_a_training_row_leaks_by_its_prompt_or_in_full() -> None:
    train = [row("u:q", "a:x"), row("u:r", "a:x"), row("u:s", "a:x"), row(text="doc")]
    held_out = [row("u:s", "a:other"), row("u:q", "a:x"), row(text="doc")]
    verdicts = leaking(train, held_out)
    assert verdicts == {
        0: Verdict("leakage", (1,)),
        2: Verdict("leakage", (0,)),
        3: Verdict("leakage", (2,)),
    }
    # The position of a row is not that of the row of validation with the same number.
    assert "validation row v:0," in verdict_reason(Verdict("leakage", (0,)), lambda p: f"v:{p}")


def test_a_prompt_leaks_whatever_kind_of_row_asks_it() -> None:
    kinds = [
        row("u:q", "a:x"),
        row("u:q", "a:x", label=True),
        pair("u:q", "a:x", "a:y"),
        row("u:q", extra="{}"),
    ]
    for one, other in itertools.product(kinds, kinds):
        assert rules(leaking([one], [other])) == {0: "leakage"}
    assert leaking([row(text="q"), row("a:x")], [*kinds, row(text="r"), row("a:y")]) == {}


def test_nearly_the_same_text_in_validation_is_a_near_leak() -> None:
    train = [
        row(text=long(words=LONG[::-1])),
        row(text=long(0, words=LONG[::-1])),  # near a training row only
        row(text=long(103)),
        row(text=long(50)),
        row(text="short"),
    ]
    held_out = [row(text="short"), row(text=long())]
    assert rules(leaking(train, held_out)) == {4: "leakage"}
    verdicts = leaking(train, held_out, near=0.9)
    assert verdicts == {
        2: Verdict("near_leakage", (1,), 0, 99 / 101),
        3: Verdict("near_leakage", (1,), 0, 95 / 105),
        4: Verdict("leakage", (0,)),
    }
    assert "shares 98.0% of its word sequences with the validation row v:1, so" in verdict_reason(
        verdicts[2], lambda p: f"v:{p}"
    )


def test_without_rows_there_is_nothing_to_find() -> None:
    some = [row(text=long()), row(text=long(0))]
    assert compared(near=0.9) == {}
    assert leaking([], some, near=0.9) == {}
    assert leaking(some, [], near=0.9) == {}


# --- what is kept --------------------------------------------------------------------------------


def test_positions_are_the_callers_own() -> None:
    rows = {10: row("u:q", "a:x"), 20: row(text=long()), 35: row("u:q", "a:x"), 40: row(text="d")}
    rows[50] = row(text=long(0))
    prints = [fingerprint(one, near=True) for one in rows.values()]
    verdicts = compare_rows(
        Index.build(list(rows), prints), near_similarity=0.9, text_of=lambda p: near_text(rows[p])
    )
    assert {position: verdict.others for position, verdict in verdicts.items()} == {
        35: (10,),
        50: (20,),
    }


def test_rows_with_verdicts_can_be_left_out_and_verdicts_chosen_by_rule() -> None:
    rows = [row("u:q", "a:x"), row("u:q", "a:x"), row("u:r", "a:x"), row("u:r", "a:y")]
    verdicts, whole = compared(*rows), index(rows)
    rest = whole.without(verdicts.only(["exact_duplicate", "leakage"]))
    assert rest.positions.tolist() == [0, 2, 3]
    assert rest.wholes.tolist() == whole.wholes[[0, 2, 3]].tolist()
    assert whole.without(verdicts).positions.tolist() == [0]
    assert verdicts.counts() == {"exact_duplicate": 1, "contradicting_answers": 2}
    assert verdicts.only([]) == {}


def test_verdicts_are_a_mapping_in_the_order_of_the_rows() -> None:
    verdicts = compared(*(row("u:q", "a:x") for _ in range(3)), row("u:r", "a:x"))
    assert list(verdicts) == [1, 2]
    assert 1 in verdicts and 0 not in verdicts and 3 not in verdicts and 99 not in verdicts
    assert len(verdicts) == 2
    assert verdicts.counts() == {"exact_duplicate": 2}
    with pytest.raises(KeyError):
        verdicts[0]


def test_the_first_of_several_verdicts_about_a_row_counts() -> None:
    one, two = np.array([3]), np.array([1, 3])
    verdicts = Verdicts.concatenate(
        [Verdicts.of("leakage", one, one), Verdicts.of("near_duplicate", two, two - 1)]
    )
    assert rules(verdicts) == {1: "near_duplicate", 3: "leakage"}
    assert Verdicts.concatenate([]) == {}


def test_a_row_takes_104_bytes() -> None:
    one = index([row("u:q", "a:x")])
    arrays = (one.positions, one.wholes, one.prompts, one.bands)
    assert sum(array.nbytes for array in arrays) == 104


def test_without_near_there_are_no_bands_and_a_row_that_is_not_compared_is_all_zeros() -> None:
    assert not fingerprint(row(text=long()), near=False).bands.any()
    assert fingerprint(row(text=long()), near=True).bands.all()
    nothing = Fingerprint.nothing()
    assert (nothing.whole, nothing.prompt) == (bytes(16), bytes(16))
    assert nothing.bands.tolist() == [0] * BANDS
    assert fingerprint(row(text="x"), near=False).prompt == bytes(16)


def test_rows_of_one_prompt_have_one_prompt_digest_and_a_prompt_is_all_of_its_turns() -> None:
    answered = fingerprint(row("s:s", "u:q", "a:x"), near=False)
    assert answered.prompt == fingerprint(row("s:s", "u:q", extra="{}"), near=False).prompt
    assert answered.prompt != fingerprint(row("u:q", "a:x"), near=False).prompt


def test_characters_that_cannot_be_written_can_be_compared() -> None:
    assert fingerprint(row("u:\ud800", "a:x"), near=True).whole != bytes(16)
