"""Conditions of one's own for the gate: METRIC >= or <= a number, the base or the champion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

from ytrainer_core.errors import ConfigError
from ytrainer_core.evaluation.metrics import METRICS, PERPLEXITIES

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<metric>[^\s<>=]+)\s*(?P<sign>>=|<=)\s*"
    rf"(?:(?P<number>{_NUMBER})|(?P<other>base|champion)"
    rf"(?:\s*(?P<operator>[-+*])\s*(?P<by>{_NUMBER}))?)\s*"
)
_FORM = (
    "METRIC >= NUMBER, METRIC <= NUMBER, or base or champion (+, - or * a NUMBER) for the number"
)


@dataclass(frozen=True)
class Rule:
    """metric >= (or <=) factor * other + offset; other is "", base or champion."""

    text: str
    metric: str
    at_least: bool
    other: Literal["", "base", "champion"]
    factor: float
    offset: float


def parse_rules(texts: Iterable[str], harness: Sequence[str] = ()) -> list[Rule]:
    """Read gate.rules. harness: tasks of lm-evaluation-harness, or patterns, measured too.

    Raises ConfigError with every rule that cannot be read or names no metric.
    """
    rules: list[Rule] = []
    faults: list[str] = []
    for text in texts:
        try:
            rules.append(_parse(text, harness))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return rules


def _parse(text: str, harness: Sequence[str]) -> Rule:
    found = _RULE.fullmatch(text)
    if not found:
        raise ConfigError(f"gate.rules: '{text}' cannot be read. Write {_FORM}.")
    _check_metric(text, found["metric"], harness)
    by = float(found["by"] or 0)
    operator = found["operator"]
    if found["number"] is not None:
        other, factor, offset = "", 0.0, float(found["number"])
    else:
        other = found["other"]
        factor = by if operator == "*" else 1.0
        offset = {"+": by, "-": -by}.get(operator, 0.0)
    return Rule(text.strip(), found["metric"], found["sign"] == ">=", other, factor, offset)  # type: ignore[arg-type]


def _check_metric(text: str, name: str, harness: Sequence[str]) -> None:
    known = [metric for metric in METRICS if metric not in PERPLEXITIES]
    if name in known or any(fnmatch(name, f"{task}_*") for task in harness):
        return
    if name in PERPLEXITIES:
        raise ConfigError(
            f"gate.rules: '{text}': {name} is exp({PERPLEXITIES[name]}). Write the rule for "
            f"{PERPLEXITIES[name]}, whose limit is the logarithm."
        )
    near = difflib.get_close_matches(name, [*known, *harness], n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"gate.rules: '{text}': there is no metric {name}. {hint}There are: "
        f"{', '.join([*known, *harness])}."
    )
