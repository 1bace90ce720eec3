"""Errors are planted where they are said to be, and nowhere else."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks import planting
from benchmarks.planting import Row

NAMES = ("Ann", "Ben", "Cleo", "Dora", "Emil")
THINGS = ("apples", "books", "coins", "dolls", "eggs")


def chat(number: int) -> planting.Chat:
    name, thing = NAMES[number % 5], THINGS[number // 5 % 5]
    count = 10 + number
    return [
        {"role": "user", "content": f"Today {name} has {count} {thing} and eats one."},
        {"role": "assistant", "content": f"Now {name} has {count}-1 {thing} left.\n#### {count}"},
    ]


CHATS = [chat(number) for number in range(50)]


def draw(seed: int = 0) -> random.Random:
    return random.Random(seed)


def test_every_kind_is_planted_equally_often_and_the_other_rows_stay() -> None:
    rows = planting.plant(CHATS, share=0.2, seed=1)
    kinds = Counter(row.kind for row in rows)
    assert kinds == {"": 40} | dict.fromkeys(planting.KINDS, 2)
    assert [row.chat for row in rows if not row.kind] == [
        before for before, row in zip(CHATS, rows, strict=True) if not row.kind
    ]
    for before, row in zip(CHATS, rows, strict=True):
        assert row.question == before[0]["content"]
        assert (row.answer != before[1]["content"]) == bool(row.kind)


def test_the_seed_decides_what_is_planted() -> None:
    assert planting.plant(CHATS, 0.2, seed=1) == planting.plant(CHATS, 0.2, seed=1)
    assert planting.plant(CHATS, 0.2, seed=1) != planting.plant(CHATS, 0.2, seed=2)


def test_more_errors_than_rows_that_can_hold_them_are_refused() -> None:
    plain = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is so."}]
    with pytest.raises(ValueError, match="too few"):
        planting.plant([plain] * 10, share=0.5, seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_number_has_as_many_digits_and_stands_in_its_span(seed: int) -> None:
    row = Row("?", "8 + 45 = <<8+45=53>>53")
    spoiled = planting.wrong_number(row, draw(seed))
    assert spoiled is not None
    answer, (start, end) = spoiled
    old, new = row.answer[start:end], answer[start:end]
    assert old in {"8", "45", "53"} and new != old and len(new) == len(old) and new.isdigit()
    assert answer[:start] + answer[end:] == row.answer[:start] + row.answer[end:]
    assert len(new) == 1 or new[0] != "0"


def test_an_answer_without_a_number_gets_no_wrong_one() -> None:
    assert planting.wrong_number(Row("?", "none"), draw()) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_truncated_answer_keeps_30_to_70_percent_of_its_words(seed: int) -> None:
    answer = " ".join(str(word) for word in range(20))
    spoiled = planting.truncated(Row("?", answer), draw(seed))
    assert spoiled is not None
    kept, span = spoiled
    assert answer.startswith(kept + " ") and 6 <= len(kept.split()) <= 14
    assert span == (len(kept), len(kept))


def test_one_word_cannot_be_truncated() -> None:
    assert planting.truncated(Row("?", "yes"), draw()) is None


@pytest.mark.parametrize("seed", range(8))
def test_gibberish_keeps_the_shape_of_the_words_and_nothing_of_their_sense(seed: int) -> None:
    answer = "Natalia sold 48\nclips"
    spoiled = planting.gibberish(Row("?", answer), draw(seed))
    assert spoiled is not None and spoiled[0] != answer and spoiled[1] == (0, len(answer))
    assert [len(word) for word in spoiled[0].split()] == [7, 4, 2, 5]
    assert spoiled[0][15] == "\n"


def test_both_ways_of_gibberish_come_up() -> None:
    found = [planting.gibberish(Row("?", "abc 12"), draw(seed)) for seed in range(20)]
    digits = {sorted(answer[0].split()[1]) == ["1", "2"] for answer in found if answer}
    assert digits == {True, False}


def test_a_mismatched_answer_is_that_of_another_row() -> None:
    rows = [Row("a", "one"), Row("b", "two")]
    answers = {planting.other_answer(rows[0], rows, draw(seed)) for seed in range(20)}
    assert answers == {None, ("two", (0, 3))}


QUESTIONS = [
    "Today Ann buys 5 apples. What will she do? Will Ann eat?",
    "Yesterday Will sold 12 coins, said Ben. His class costs 3 dollars less.",
]


def test_entities_are_names_inside_sentences_and_counted_plurals() -> None:
    """Will is also a word; Today begins a sentence; class is no plural; costs no thing."""
    assert planting.entities(QUESTIONS) == {
        "Ann": 2,
        "Ben": 1,
        "apples": 1,
        "coins": 1,
        "dollars": 1,
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_name_becomes_a_name_and_a_thing_a_thing_that_the_row_does_not_know(seed: int) -> None:
    row = Row(QUESTIONS[0], "Ann has 5 apples.")
    spoiled = planting.other_entity(row, planting.entities(QUESTIONS), draw(seed))
    assert spoiled in {
        ("Ben has 5 apples.", (0, 3)),
        ("Ann has 5 coins.", (10, 15)),
        ("Ann has 5 dollars.", (10, 17)),
    }


def test_an_answer_that_names_nothing_of_the_question_keeps_its_entities() -> None:
    known = planting.entities(QUESTIONS)
    assert planting.other_entity(Row(QUESTIONS[0], "Ben has 5."), known, draw()) is None
