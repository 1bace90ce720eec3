"""What the tests of the rules share: rows written short, and one rule asked alone."""

from __future__ import annotations

from typing import Any

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import RULES, RuleBook
from ytrainer_core.data.formats import Row, Turn

ALWAYS_ERRORS = ("unreadable_row", "unknown_shape", "empty_text", "template_refused")
NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(*said: str) -> tuple[Turn, ...]:
    """'u:hello' -> user says hello."""
    return tuple(Turn(NAMES[turn[0]], turn[2:]) for turn in said)


def row(*said: str, **fields: Any) -> Row:
    """row('u:q', 'a:x', label=True): a row of these turns."""
    return Row("f:1", turns(*said), **fields)


def only(rule: str, **config: Any) -> RuleBook:
    """A book in which this rule is an error and all others are off."""
    off = {name: "off" for name in RULES if name not in ALWAYS_ERRORS}
    rules = off | {rule: "error"}
    return RuleBook(DataConfig(rules=tuple(f"{k}={v}" for k, v in rules.items()), **config))


def found(rule: str, text: str, **config: Any) -> str | None:
    """The reason why an answer of this text breaks the rule, or None."""
    broken = only(rule, **config).judge(row("u:q", f"a:{text}")).error
    assert broken is None or broken[0] == rule
    return broken[1] if broken else None
