"""Text that a program damaged: control characters, lost characters, answers caught in a loop."""

from __future__ import annotations

import re
from collections import Counter

from ytrainer_core.data.rules.found import Found

# Tab, line feed, form feed, carriage return and next line are layout; all others are damage.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
_HARMLESS = bytes(byte for byte in range(128) if not _CONTROL.match(chr(byte)))
_REPLACEMENT = "\ufffd"

# A word, or one character of a script that is written without spaces.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WORD = re.compile(rf"{_UNSPACED.pattern}|\w+")
_SPACED_WORD = re.compile(r"\S+")
# A loop says the same few words again: answers of at least so many words ...
_LOOP_MIN_WORDS = 40
# ... whose runs of this many words ...
_LOOP_RUN = 4
# ... are for the most part repeats (share of distinct runs below this).
_LOOP_DISTINCT_SHARE = 0.35
# A model that falls into a loop stays in it until it is cut off, so the end is looked at by itself.
_LOOP_END_WORDS = 160
# One endless last word ("hahaha", "aaaa"): so long, of so few different letters.
_LONG_WORD = 100
_LONG_WORD_LETTERS = 3
_STOPS = ".,!?…"
_QUOTED_CHARACTERS = 40


def control_characters(text: str) -> Found | None:
    if text.isascii() and not text.encode().translate(None, _HARMLESS):
        return None  # what the pattern would say too, in a third of the time
    if not (found := _CONTROL.search(text)):
        return None
    return Found(
        found.start(),
        f"the control character U+{ord(found.group()):04X}",
        "Remove it; it is often a wrong encoding (data.encoding).",
    )


def replacement_characters(text: str) -> Found | None:
    if (at := text.find(_REPLACEMENT)) < 0:
        return None
    return Found(
        at,
        "U+FFFD, the mark of a character that an earlier conversion lost,",
        "Convert the row again from its source in the right encoding.",
    )


def repetition(text: str) -> Found | None:
    """An answer of which most runs of words are repeats, in all or at its end."""
    words = text.split() if _is_spaced(text) else _WORD.findall(text)
    end = words[-_LOOP_END_WORDS:]
    if _is_loop(end) or (len(words) > len(end) and _is_loop(words)):
        return _loop(text)
    return _endless_word(text, words)


def _is_spaced(text: str) -> bool:
    return text.isascii() or not _UNSPACED.search(text)


def _is_loop(words: list[str]) -> bool:
    count = len(words) - _LOOP_RUN + 1
    if len(words) < _LOOP_MIN_WORDS:
        return False
    # Each distinct run after the first brings at most one new word, so many distinct words mean
    # many distinct runs; counting words is several times cheaper.
    if len(set(words)) >= _LOOP_DISTINCT_SHARE * count + _LOOP_RUN - 1:
        return False
    return len({*zip(*(words[i:] for i in range(_LOOP_RUN)), strict=False)}) < (
        _LOOP_DISTINCT_SHARE * count
    )


def _loop(text: str) -> Found:
    words = [*(_SPACED_WORD if _is_spaced(text) else _WORD).finditer(text)]
    runs = [
        tuple(word.group() for word in words[i : i + _LOOP_RUN])
        for i in range(len(words) - _LOOP_RUN + 1)
    ]
    (run, times), *_ = Counter(runs).most_common(1)
    first = runs.index(run)
    quoted = text[words[first].start() : words[first + _LOOP_RUN - 1].end()]
    return Found(
        words[first].start(),
        f"a loop ({_short(quoted)!r} stands there {times} times)",
        "Cut the loop, or leave the row out.",
    )


def _endless_word(text: str, words: list[str]) -> Found | None:
    word = words[-1].rstrip(_STOPS) if words else ""
    if len(word) < _LONG_WORD or not word.isalpha() or len({*word}) > _LONG_WORD_LETTERS:
        return None
    return Found(
        text.rfind(word),
        f"one word of {len(word):,} characters ({_short(word)!r})",
        "Cut it, or leave the row out.",
    )


def _short(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…"
