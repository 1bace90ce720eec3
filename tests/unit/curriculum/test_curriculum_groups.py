"""Which rows stay together."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.groups import group_numbers


def numbers(rows: list[dict[str, Any]], group_by: str) -> list[int]:
    return group_numbers(datasets.Dataset.from_list(rows), OrderConfig(group_by=group_by)).tolist()


def row(origin: str, *turns: tuple[str, str]) -> dict[str, Any]:
    return {"origin": origin, "messages": [{"role": r, "content": c} for r, c in turns]}


TALKS = [
    row("a.jsonl:1", ("user", "How?"), ("assistant", "So."), ("user", "Why?")),
    row("a.jsonl:2", ("system", "Be short."), ("user", "Why?"), ("assistant", "Since.")),
    row("b.jsonl:1", ("user", " How?\n"), ("assistant", "Thus.")),
    row("b.jsonl:2", ("assistant", "Hello.")),
    row("a.jsonl:3", ("assistant", "Hello.")),
]


def test_rows_of_one_first_question_are_a_group_and_rows_that_ask_nothing_are_alone() -> None:
    assert numbers(TALKS, "prompt") == [0, 1, 0, 2, 3]


def test_rows_of_one_file_are_a_group() -> None:
    assert numbers(TALKS, "file") == [0, 0, 1, 1, 0]


def test_without_grouping_every_row_is_alone() -> None:
    assert numbers(TALKS, "none") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "origin, other, same",
    [
        ("a.jsonl:1 + b.jsonl:7", "a.jsonl:9", True),  # joined: the first one's file
        ("a.jsonl:1 + b.jsonl:7", "b.jsonl:9", False),
        ("s3://bucket/a.jsonl:1", "s3://bucket/b.jsonl:1", False),
        ("s3://bucket/a + b.jsonl:1", "s3://bucket/a + b.jsonl:2", True),
        ("at 10:30.txt:1", "at 10:45.txt:1", False),
        ("a.json:1", "a.json:1:2044", True),  # rows of one line
        ("a.json:1:90 + b.json:1:7", "a.json:2", True),
        ("no line", "no line", True),
    ],
)
def test_the_file_is_what_stands_before_the_line(origin: str, other: str, same: bool) -> None:
    first, second = numbers([row(origin), row(other)], "file")
    assert (first == second) is same
