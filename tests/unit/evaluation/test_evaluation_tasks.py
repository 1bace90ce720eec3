"""How an answer compares with the expected one, by hand."""

from __future__ import annotations

import pytest

from ytrainer_core.evaluation.tasks import exact_match, token_f1


@pytest.mark.parametrize(
    "answer, expected, match",
    [
        ("42", "42", 1.0),
        (" 42\n", "42", 1.0),
        ("42.", "42", 0.0),
        ("Paris", "paris", 0.0),
        ("a  b", "a b", 0.0),
        ("", "", 1.0),
        ("", "42", 0.0),
    ],
)
def test_exact_match_forgives_white_space_at_the_ends_and_nothing_else(
    answer: str, expected: str, match: float
) -> None:
    assert exact_match(answer, expected) == match


@pytest.mark.parametrize(
    "answer, expected, f1",
    [
        ("the cat sat", "the cat sat", 1.0),
        ("sat the cat", "the cat sat", 1.0),  # the order does not count
        ("the dog", "the cat sat", 0.4),  # 2 x 1 / (2 + 3)
        ("a a a", "a b", 0.4),  # a counts once: precision 1/3, recall 1/2
        ("a a b", "a a c", 2 / 3),
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("x", "", 0.0),
        ("", "", 1.0),
        (" ", "", 1.0),
    ],
)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(
    answer: str, expected: str, f1: float
) -> None:
    assert token_f1(answer, expected) == pytest.approx(f1)
