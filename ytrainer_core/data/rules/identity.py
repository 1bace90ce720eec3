"""Numbers that stand for one person: resident identity cards of China, and payment cards.

Both carry a check digit, so that other long numbers are told apart.
"""

from __future__ import annotations

import datetime
import re
from itertools import chain

from ytrainer_core.data.rules.found import Found, has_digits, masked

# 18 characters by GB 11643-1999: place (6), date of birth (8), sequence (3), check character.
_RESIDENT = re.compile(
    r"(?<![\w.-])([1-8]\d{5})((?:19|20)\d\d)(0[1-9]|1[0-2])([0-2]\d|3[01])\d{3}[\dXx](?![\w-])",
    re.ASCII,
)
_PROVINCES = frozenset(
    chain(
        *(range(11, 16), range(21, 24), range(31, 38), range(41, 47), range(50, 55)),
        *(range(61, 66), (71, 81, 82, 83)),
    )
)
# ISO 7064 MOD 11-2: the weight of place i (from the left, of 18) is 2 ** (17 - i) modulo 11.
_RESIDENT_WEIGHTS = tuple(pow(2, 17 - place, 11) for place in range(17))
_RESIDENT_CHECK = "10X98765432"

# First digits and lengths of payment cards (ISO/IEC 7812; the issuers' published ranges), written
# in one piece, in fours, or as 4-6-5 (American Express).
_CARD = re.compile(
    r"(?<![\w.,-])(?:"
    r"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d|64[4-9]\d|62\d\d|352[89]|35[3-8]\d)"
    r"([ -]?)\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5}"
    r"|3(?:0[0-5]|[689]\d)\d([ -]?)\d{6}\3\d{4}"
    r")(?![\w-]|[.,]\d)",
    re.ASCII,
)
_LEAST_DIGITS = 13  # of a payment card; a resident has more
_SEPARATOR = re.compile("[ -]")
# Numbers to try things out with, like 4111 1111 1111 1111, are nobody's.
_LEAST_DIFFERENT_DIGITS = 4


def id_number(text: str) -> Found | None:
    if not has_digits(text, _LEAST_DIGITS):
        return None
    for found in _RESIDENT.finditer(text):
        if _is_resident(found):
            return Found(
                found.start(),
                f"the resident identity number {masked(found.group())}",
                "Take it out, or put a number with a wrong check digit in its place.",
            )
    for found in _CARD.finditer(text):
        number = _SEPARATOR.sub("", found.group())
        if len({*number}) >= _LEAST_DIFFERENT_DIGITS and luhn_fits(number):
            return Found(
                found.start(),
                f"the payment card number {masked(found.group())}",
                "Take it out, or put a number with a wrong check digit in its place.",
            )
    return None


def _is_resident(found: re.Match[str]) -> bool:
    place, year, month, day = found.groups()
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        return False
    return int(place[:2]) in _PROVINCES and resident_check_fits(found.group())


def resident_check_fits(number: str) -> bool:
    """Whether the last of 18 characters is the check character of the 17 before it.

    Source: ISO 7064 MOD 11-2, as GB 11643-1999 uses it.
    """
    total = sum(int(d) * w for d, w in zip(number[:17], _RESIDENT_WEIGHTS, strict=True))
    return _RESIDENT_CHECK[total % 11] == number[17].upper()


def luhn_fits(number: str) -> bool:
    """Whether a string of digits ends with its check digit. Source: ISO/IEC 7812-1, Luhn."""
    total = sum(map(int, number[-1::-2]))
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return total % 10 == 0
