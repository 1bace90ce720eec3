"""How an answer compares with the expected one."""

from __future__ import annotations

from collections import Counter


def exact_match(answer: str, expected: str) -> float:
    """1 where both are the same but for white space at the ends."""
    return float(answer.strip() == expected.strip())


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over white-space tokens, as SQuAD has it.

    Two empty answers agree fully. Source: Rajpurkar et al., arXiv 1606.05250.
    """
    got, want = answer.split(), expected.split()
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))
