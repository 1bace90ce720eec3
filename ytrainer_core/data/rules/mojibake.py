"""Text that was written in one encoding and read in another: Ã© for é, 鐨勪腑 for 的中.

ftfy knows which neighbours of characters hardly ever stand in clean text; alone that flags formulas
and phonetic signs as well, so a line counts only if another reading of its bytes mends it.
Source: ftfy.readthedocs.io, "Heuristics for detecting mojibake".
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from ytrainer_core.data.rules.found import Found

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

# Two neighbours beyond ASCII, the second no plain Greek or Cyrillic letter and no dash, ellipsis
# or apostrophe, but for Ã and Â, which tell by themselves: none of ftfy's signs does without. Text
# in Latin, Cyrillic or Chinese script has few such pairs (German öß aside), so that ftfy's many
# patterns are seldom asked.
_SUSPECT = re.compile(
    r"[\x80-\u2bff\uf8ff\ufb01\ufb02\ufffd](?!(?<=[äöü])ß)(?:"
    r"[\x80-\x9f\xa1-\xac\xae-\xb3\xb5\xb6\xb8-\u036f\u0400-\u040f\u0452-\u045f\u0490\u0491"
    r"\u2000-\u2012\u2016-\u2018\u201a-\u2025\u2027-\u2bff\uf8ff\ufb01\ufb02\ufffd]"
    r"|(?<=[ÃÂ])[ \xa0\xad´–—])"
)
# ftfy's longest sign has so many characters before or behind such a pair.
_AROUND = 4
_NEXT_LINE = "\x85"  # layout in our reading, damage in ftfy's

# U+FFFD twice in UTF-8, read as GBK.
_LOST_TWICE = "锟斤拷"
# What GBK shows for the first two bytes of common Chinese characters and full-width signs in UTF-8.
_UTF8_LEADS = (0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEF)
_UTF8_FOLLOWERS = range(0x80, 0xC0)
_GBK_HALVES = re.compile(
    "[{}]".format(
        "".join(
            bytes((lead, follower)).decode("gbk", "ignore")
            for lead in _UTF8_LEADS
            for follower in _UTF8_FOLLOWERS
        )
    )
)
# Chinese, Japanese and full-width signs.
_EAST_ASIAN = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
# Read as UTF-8, garbled text gives at least so many of these, and at most so large a share of lost
# characters beside them; clean Chinese gives hardly anything but lost characters.
_LEAST_READ = 3
_MOST_LOST = 0.25

# Letters and signs that Latin-1 shows for GBK: at least this many characters, among them signs.
_LATIN_RUN = re.compile(r"[\xa1-\xff]{6,}")
_LATIN_SIGN = re.compile(r"[\xa1-\xbf]")
_LEAST_SIGNS = 2

# Letters of western and central Europe, punctuation, currency, symbols and East Asian scripts ...
_USUAL = re.compile(r"[\xa1-\u017f\u2010-\u2bff\u3000-\U0001ffff]")
# ... or so many different characters of another script.
_LEAST_NEW = 3

_EXCERPT = 12
_REMEDY = "Convert the row again from its source, read in its right encoding (data.encoding)."


def mojibake(text: str) -> Found | None:
    """text: with characters beyond ASCII."""
    if found := _chinese_in_chinese(text):
        return found
    if not _SUSPECT.search(text):
        return None
    return _in_single_bytes(text.replace(_NEXT_LINE, "\n"))


def _chinese_in_chinese(text: str) -> Found | None:
    """UTF-8 read as GBK: rare and old Chinese characters."""
    if (at := text.find(_LOST_TWICE)) >= 0:
        return _found(at, _LOST_TWICE, "")
    if not (first := _GBK_HALVES.search(text)):
        return None
    read = text[first.start() :].encode("gbk", "ignore").decode("utf-8", "replace")
    sensible = len(_EAST_ASIAN.findall(read))
    if sensible < _LEAST_READ or read.count("\ufffd") > _MOST_LOST * sensible:
        return None
    return _found(first.start(), text[first.start() :], read)


def _in_single_bytes(text: str) -> Found | None:
    """UTF-8, or GBK, read as Windows-1252 and its like."""
    from ftfy import fix_encoding
    from ftfy.badness import BADNESS_RE

    begin = 0
    while suspect := _SUSPECT.search(text, begin):
        begin = suspect.end() - 1
        if not BADNESS_RE.search(text, max(0, suspect.start() - _AROUND), suspect.end() + _AROUND):
            continue
        start = text.rfind("\n", 0, suspect.start()) + 1
        end = text.find("\n", suspect.end())
        line = text[start:] if end < 0 else text[start:end]
        fixed = fix_encoding(line, _plain_fixes())
        if fixed != line and _is_plausible(line, fixed):
            return _first_difference(start, line, fixed)
        if found := _chinese_in_latin(start, line):
            return found
        if end < 0:
            return None
        begin = end
    return None


def _is_plausible(line: str, fixed: str) -> bool:
    """Whether what came out is what people write. Here and there a pair of letters in clean text
    could be read as one rare letter."""
    new = {*fixed} - {*line}
    return any(_USUAL.match(character) for character in new) or len(new) >= _LEAST_NEW


@cache
def _plain_fixes() -> TextFixerConfig:
    from ftfy import TextFixerConfig

    return TextFixerConfig(explain=False)


def _first_difference(start: int, line: str, fixed: str) -> Found:
    at = next((i for i, (a, b) in enumerate(zip(line, fixed, strict=False)) if a != b), 0)
    at = line.rfind(" ", 0, at) + 1
    return _found(start + at, line[at:], fixed[at:])


def _chinese_in_latin(start: int, line: str) -> Found | None:
    """GBK read as Latin-1: pairs of accented letters and signs."""
    for run in _LATIN_RUN.finditer(line):
        if len(_LATIN_SIGN.findall(run.group())) < _LEAST_SIGNS:
            continue
        read = run.group().encode("latin-1").decode("gb2312", "replace")
        if read.count("\ufffd") <= _MOST_LOST * len(_EAST_ASIAN.findall(read)):
            return _found(start + run.start(), run.group(), read)
    return None


def _found(at: int, garbled: str, read: str) -> Found:
    meant = f" (read rightly perhaps {_excerpt(read)!r})" if read else ""
    return Found(at, f"text read in a wrong encoding, {_excerpt(garbled)!r}{meant},", _REMEDY)


def _excerpt(text: str) -> str:
    """The beginning up to the next white space."""
    word = (text.split(maxsplit=1) or [""])[0]
    return word if len(word) <= _EXCERPT else f"{word[:_EXCERPT]}…"
