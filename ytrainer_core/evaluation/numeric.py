r"""The number that an answer ends with, as people and models write it.

It stands after `####` (as in GSM8K), in `\boxed{}` (as in MATH), or is the last one of the text.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_RELATIVE_ERROR = 1e-6
"""Numbers that differ by no more than this share of the greater are equal."""

_ASCII = str.maketrans("－−＋．，％／＃", "--+.,%/#")
_LATEX = (
    (re.compile(r"(?<=\d)\\[dt]?frac"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),  # a thousands comma without the blank that follows others
    (re.compile(r"\\[,!;:]"), ""),  # thin blanks between thousands
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\s?(?:\\times|\\cdot|[×*])\s?10\s?\^\s?\{?([-+]?\d+)\}?"), r"e\1"),
    (re.compile(r"\^\s?\{?[-+]?\d+\}?"), "^"),  # an exponent is no number of its own
)
_SIGN = r"(?:(?<![A-Za-z_\d)\]}%])(?P<sign>[-+]))?"
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(
    rf"{_SIGN}(?:[$€£¥]\s?)?"
    r"(?<![A-Za-z_\d])(?<!\d\.)"  # neither the 2 of m2 nor the 3 of 1.2.3
    r"(?:(?P<whole>\d+) (?=\d+\s?/\s?\d))?"
    rf"(?>(?P<top>{_UNSIGNED}))(?>\s?/\s?(?P<bottom>{_UNSIGNED}))?+(?P<percent>\s?%)?+"
    r"(?!\s?\^)"  # 10^2 is not 10
)
_HASHES = re.compile(r"####[ \t]*(?=[-+.$€£¥]*\d)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


class Number(NamedTuple):
    """A number as it was written: percent says that a % stands behind it."""

    value: float
    percent: bool


def numeric(answer: str, expected: str) -> float:
    r"""1 where both give the same number, 0 elsewhere and where either gives none.

    Thousands may have commas; 3/4, 1 1/2 and \frac{3}{4} are fractions. Where only one of the two
    has a percent sign, 12% is both 12 and 0.12.
    """
    got, wanted = number_of(answer), number_of(expected)
    return float(got is not None and wanted is not None and _same(got, wanted))


def number_of(text: str) -> Number | None:
    """The number that a text gives as its answer; None where it gives none."""
    text = text.translate(_ASCII)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    marks = [*_HASHES.finditer(text)]
    if marks:
        match = _NUMBER.search(text, marks[-1].end())
        return _read(match) if match else None
    boxed = _BOXED.findall(text)
    numbers = [*_NUMBER.finditer(boxed[-1] if boxed else text)]
    return _read(numbers[-1]) if numbers else None


def _read(match: re.Match[str]) -> Number | None:
    value = _float(match["top"])
    if match["bottom"] is not None:
        below = _float(match["bottom"])
        value = value / below if below else math.nan
    value += _float(match["whole"] or "0")
    if not math.isfinite(value):
        return None
    return Number(-value if match["sign"] == "-" else value, match["percent"] is not None)


def _float(digits: str) -> float:
    return float(digits.replace(",", ""))


def _same(one: Number, other: Number) -> bool:
    if one.percent == other.percent:
        return _near(one.value, other.value)
    percent, plain = (one, other) if one.percent else (other, one)
    return _near(percent.value, plain.value) or _near(percent.value / 100, plain.value)


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE_ERROR)
