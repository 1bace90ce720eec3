"""What the gate says: a verdict, and every condition as a sentence. Light, for the reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One condition of the gate and whether it held."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """passed only where every reason passed."""

    passed: bool
    reasons: list[Reason]
