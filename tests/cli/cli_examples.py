"""Rows for the tests of commands."""

from __future__ import annotations


def alpaca(count: int, first: int = 0) -> list[dict[str, str]]:
    """Rows that differ in prompt and answer."""
    return [
        {"instruction": f"What is {i} and {i}?", "input": "", "output": f"It is {2 * i}."}
        for i in range(first, first + count)
    ]
