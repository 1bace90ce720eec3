"""Where people and pages are to be found: web addresses, e-mail addresses, phone numbers.

A model that is trained on them learns to give away the real ones and to make up others. Names that
were set aside for examples (RFC 2606) and addresses of the own machine are nobody's.
"""

from __future__ import annotations

import re

from ytrainer_core.data.rules.found import Found, has_digits, masked

_URL = re.compile(
    r"(?:https?://|\b(?=www\.))([^\s/?#:\"'<>()\[\]{}，。；！？、）】》”`|\\]+)[^\s]*", re.ASCII
)
_EMAIL = re.compile(
    r"(?<![\w.+%-])([\w.+%-]{1,64})@((?:[\w-]{1,63}\.)+[a-zA-Z]{2,24})(?![\w@-])", re.ASCII
)
_NOBODYS = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost|local|internal)$"
    # what people write for a domain that is still to be filled in
    r"|^(?:www\.)?(?:your[\w-]*|(?:my|some)?(?:company|domain|website|email|site))\.(?:com|org|net)$"
    r"|^(?:127|10|192\.168|0)\.[\d.]+$"
    # Names of XML vocabularies look like addresses, but are none.
    r"|^(?:www\.w3\.org|schemas\..+|xmlns\..+)$",
    re.IGNORECASE,
)
_A_HOST = re.compile(r"[\w-]+(?:\.[\w-]+)+$")
_SSH_USER = "git"  # git@host:path names a repository
_LONGEST_HOST = 60

# How a number may be written: +49 (0)30 1234-5678.
_PHONE = re.compile(
    # abroad: a plus and a country code
    r"(?<![\w+)\]])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,5}\)[ .-]?)?\d{1,5}(?:[ .-]?\d{2,8}){1,4}"
    r"(?![\w%]|[.,]\d)"
    # a mobile in China: 138 1234 5678
    r"|(?<![\w.,/=$¥￥€£*+-])(?:86[ -]?)?1[3-9]\d([ -]?)\d{4}\1\d{4}(?![\w%]|[.,]\d|[ ]?[=*/+-])"
    # a landline in China: 010-12345678
    r"|(?<![\w.,/=$-])0\d{2,3}-[2-9]\d{6,7}(?![\w-]|[.,]\d)"
    # North America: 780-800-7092, (780) 800-7092
    r"|(?<![\w.,/=$+-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))[2-9]\d\d[.-]\d{4}"
    r"(?![\w%-]|[.,]\d|[ ]?[=*/+])",
    re.ASCII,
)
_SPOKEN_OF = re.compile(
    r"(?:\b(?:tel(?:ephone|efon)?|phone(?: number)?|fax|mobile|whatsapp|téléphone|call us at)\b"
    r"|(?:电话|手机)号?码?|联系方式)[\s:：.#=-]{0,4}(\(?\d[\d ()./-]{5,18}\d)(?!\w)",
    re.IGNORECASE | re.ASCII,
)
# Looked for first, because trying all ways at every character takes twenty times as long. What
# comes before ("phone number: (") and decides behind it has at most so many characters.
_MANY_DIGITS = re.compile(r"\d(?:[ ()./-]{0,3}\d){6,}", re.ASCII)
_BEFORE, _BEHIND = 24, 4
_NO_DIGITS = re.compile(r"\D")
_LEAST_DIGITS, _MOST_DIGITS = 7, 13  # E.164 allows 15, which no country uses up
_LEAST_DIGITS_ABROAD = 9
# Round numbers are amounts, and 555 belongs to the films.
_AN_AMOUNT = re.compile(r"0{5}$")
_FILM_NUMBER = re.compile(r"(?:^|^\d?\d{3})555\d{4}$")


def url(text: str) -> Found | None:
    if "://" not in text and "www." not in text:
        return None
    for found in _URL.finditer(text):
        host = found.group(1).rstrip(".,")
        if _A_HOST.match(host) and not _NOBODYS.search(host):
            return Found(
                found.start(),
                f"the web address of {host[:_LONGEST_HOST]!r}",
                "Take it out where the model shall not learn to write addresses, or set "
                "data.rules=url=off.",
            )
    return None


def email(text: str) -> Found | None:
    if "@" not in text:
        return None
    for found in _EMAIL.finditer(text):
        user, host = found.groups()
        if user != _SSH_USER and not _NOBODYS.search(host):
            return Found(
                found.start(),
                f"the e-mail address {masked(found.group())}",
                "Put an address at example.com in its place.",
            )
    return None


def phone(text: str) -> Found | None:
    if not has_digits(text, _LEAST_DIGITS):
        return None
    for digits in _MANY_DIGITS.finditer(text):
        begin, end = max(0, digits.start() - _BEFORE), digits.end() + _BEHIND
        for found in _PHONE.finditer(text, begin, end):
            number = _NO_DIGITS.sub("", found.group())
            least = _LEAST_DIGITS_ABROAD if found.group().startswith("+") else _LEAST_DIGITS
            if _is_phone(number, least):
                return _phone(found.start(), found.group())
        for found in _SPOKEN_OF.finditer(text, begin, end):
            if _is_phone(_NO_DIGITS.sub("", found.group(1)), _LEAST_DIGITS):
                return _phone(found.start(1), found.group(1))
    return None


def _is_phone(number: str, least: int) -> bool:
    return (
        least <= len(number) <= _MOST_DIGITS
        and not _AN_AMOUNT.search(number)
        and not _FILM_NUMBER.search(number)
    )


def _phone(at: int, number: str) -> Found:
    return Found(at, f"the phone number {masked(number)}", "Put a made-up number in its place.")
