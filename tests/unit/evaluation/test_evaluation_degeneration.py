"""Answers that repeat themselves, counted by hand."""

from __future__ import annotations

import pytest

from ytrainer_core.evaluation.degeneration import degeneration


@pytest.mark.parametrize(
    "answer, repetition, distinct_1, distinct_2",
    [
        ("a b c d e", 0, 1, 1),
        # 4-grams abab baba abab baba abab: 3 of 5 were said before; pairs ab ba: 2 of 7
        ("a b a b a b a b", 3 / 5, 2 / 8, 2 / 7),
        ("no no no no no", 1 / 2, 1 / 5, 1 / 4),  # 4-grams: the same one twice
        ("yes yes", 0, 1 / 2, 1),  # too short for a 4-gram
        ("yes", 0, 1, 1),
        ("", 0, 1, 1),
        ("Yes yes", 0, 1, 1),  # as written
        ("好好好好好", 1 / 2, 1 / 5, 1 / 4),  # characters are words
        ("我们 走 ab ab", 0, 4 / 5, 1),
    ],
)
def test_repetition_and_distinct_words_of_an_answer(
    answer: str, repetition: float, distinct_1: float, distinct_2: float
) -> None:
    found = {name: values.value for name, values in degeneration([answer]).items()}
    assert found == {
        "repetition": pytest.approx(repetition),
        "distinct_1": pytest.approx(distinct_1),
        "distinct_2": pytest.approx(distinct_2),
    }


def test_every_answer_counts_the_same_whatever_its_length() -> None:
    found = degeneration(["no no no no no", "a b c d e f g h i j"])
    assert found["repetition"].sums.tolist() == [0.5, 0.0]
    assert found["repetition"].counts.tolist() == [1.0, 1.0]
    assert found["distinct_1"].value == pytest.approx((0.2 + 1) / 2)
