"""How an answer compares with the expected one: f(answer, expected), higher is better."""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from numbers import Real

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.evaluation.json_answers import json_valid, schema_metric
from ytrainer_core.evaluation.numeric import numeric
from ytrainer_core.evaluation.words import normalized, words

logger = logging.getLogger(__name__)

Metric = Callable[[str, str], float]


def answer_metrics(config: EvaluateConfig) -> dict[str, Metric]:
    """The metrics that config.answers names, in its order, ready to be called.

    Warns of an option that no named metric reads. Raises one ConfigError with every option that
    is missing or wrong.
    """
    found: dict[str, Metric] = {}
    faults: list[str] = []
    for name in config.answers:
        try:
            found[name] = METRICS[name] if name in METRICS else _configured(name, config)
        except ConfigError as error:
            faults += error.faults
    for option in _CONFIGURED:
        if getattr(config, option) and option not in config.answers:
            logger.warning(
                "evaluate.%s has no effect: evaluate.answers does not name %s.", option, option
            )
    if faults:
        raise ConfigError(*faults)
    return found


def exact_match(answer: str, expected: str) -> float:
    """1 where both are the same but for white space at the ends."""
    return float(answer.strip() == expected.strip())


def normalized_match(answer: str, expected: str) -> float:
    """1 where both are the same but for case, punctuation, articles and white space."""
    return float(normalized(answer) == normalized(expected))


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over white-space tokens, as SQuAD has it.

    Two empty answers agree fully. Source: Rajpurkar et al., arXiv 1606.05250.
    """
    got, want = answer.split(), expected.split()
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))


def rouge_l(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall of the longest common subsequence of words.

    Words have one case and no punctuation; characters of scripts without spaces are words. Two
    empty answers agree fully. Source: Lin 2004, eqs. 2-4, with beta = 1 and without stemming.
    """
    got, want = words(answer), words(expected)
    if not got or not want:
        return float(got == want)
    return 2 * _common_subsequence(got, want) / (len(got) + len(want))


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table being bits of one integer.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited", fig. 2.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    all_bits = (1 << len(one)) - 1
    row = all_bits
    for word in other:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & all_bits
    return len(one) - row.bit_count()


# --- metrics that need an option -----------------------------------------------------------------


def _configured(name: str, config: EvaluateConfig) -> Metric:
    what, make = _CONFIGURED[name]
    option = getattr(config, name)
    if not option:
        raise ConfigError(f"evaluate.answers: '{name}' needs {what}. Set evaluate.{name}.")
    return make(option)


def _regex_metric(pattern: str) -> Metric:
    """f(answer, expected): 1 where the pattern is found in the answer and its groups are right.

    Right are groups as in the expected answer; where that has no match, one group may also be the
    whole of it. The last match in a text counts, as models come to their answer at the end.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"evaluate.regex: '{pattern}' is no regular expression ({error}). Mend it."
        ) from error

    def groups(text: str) -> tuple[str | None, ...] | None:
        matches = [*compiled.finditer(text)]
        return matches[-1].groups() if matches else None

    def regex(answer: str, expected: str) -> float:
        got, want = groups(answer), groups(expected)
        if want is None:
            want = (expected.strip(),) if compiled.groups else ()
        return float(got == want)

    return regex


def _function_metric(name: str) -> Metric:
    """The user's function at package.module:name, checked to give a finite number."""
    given = _imported(name)

    def function(answer: str, expected: str) -> float:
        try:
            value = given(answer, expected)
        except Exception as error:
            raise ConfigError(
                f"evaluate.function: {name} failed with {type(error).__name__}: {error}. The "
                f"answer was {answer[:_SHOWN]!r}, expected was {expected[:_SHOWN]!r}. Mend it."
            ) from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ConfigError(
                f"evaluate.function: {name} returned {value!r} for the answer "
                f"{answer[:_SHOWN]!r}. Let it return a finite number."
            )
        return float(value)

    return function


_SHOWN = 80
"""Characters of an answer in an error."""


def _imported(name: str) -> Callable[[str, str], object]:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(
            f"evaluate.function: '{name}' is not package.module:name. Example: my_metrics:score."
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"evaluate.function: {name} cannot be imported ({type(error).__name__}: {error}). "
            "Correct the name, or put the folder of the module into PYTHONPATH."
        ) from error
    if not callable(found):
        raise ConfigError(f"evaluate.function: {name} is no function. Name one.")
    return found  # type: ignore[no-any-return]


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "normalized_match": normalized_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "numeric": numeric,
    "json_valid": json_valid,
}
"""Metrics that need nothing but the two texts."""

_CONFIGURED: dict[str, tuple[str, Callable[[str], Metric]]] = {
    "json_schema": ("a file with the schema", schema_metric),
    "regex": ("a pattern", _regex_metric),
    "function": ("the function's name", _function_metric),
}
"""Metric -> what the option of its name holds, and what makes the metric of it."""
