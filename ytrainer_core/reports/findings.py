"""What is suspicious about a row, in words: “27” where the model expected “24” (91 %)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ytrainer_core.reports.render import inline, number
from ytrainer_core.reports.token_text import REPLACEMENT

Alternatives = Sequence[tuple[str, float]]

_END = re.compile(r"</s>|<[|｜]?(?:[^<>\s]*end[^<>\s]*|eos|eot[^<>\s]*)>", re.IGNORECASE)
"""Texts of the tokens that end a turn or a document in the usual tokenizers."""

_NAMED = {
    "": "a space",
    " ": "a space",
    "\n": "a line break",
    "\n\n": "an empty line",
    "\t": "a tab",
}
"""White space that is named, since a quotation shows nothing of it. Sentence pieces decode the
space to nothing."""

_MOST_CHARACTERS = 40
"""Characters of one quoted text."""

_LONGEST_WORD = 8
"""Pieces of one word; more is no word, and the piece is named alone."""

_LEAST_CHANCE = 0.005
"""Probabilities within this of 0 or 1 are not rounded to them."""

_MUCH_WORSE = 2.0
"""Mean loss of a row over that of the corpus from which the whole answer is called unlikely."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, or several that share a character; those speak through the least likely.

    nll, entropy: nats. expected: (text, probability), most likely first. tokens: how many.
    """

    text: str
    nll: float
    entropy: float
    expected: Alternatives = ()
    tokens: int = 1

    @property
    def surprise(self) -> float:
        """Loss beyond what the model itself expected to lose, nats; -inf where not a number."""
        beyond = self.nll - self.entropy
        return -math.inf if math.isnan(beyond) else beyond


@dataclass(frozen=True, slots=True)
class Said:
    """Part of a sentence; kind is "" for ours, "was" for the row's text, "should" for the model's.

    Texts of the row and of the model come from users and may run from right to left.
    """

    text: str
    kind: str = ""


Sentence = Sequence[Said]


@dataclass(frozen=True, slots=True)
class Finding:
    """The word of a stretch that surprised the model most.

    word: its pieces, [start, end). alternatives: (text, chance) of what was expected in its place.
    """

    word: tuple[int, int]
    sentence: Sentence
    alternatives: Sequence[tuple[str, str]]


def find(pieces: Sequence[Piece], span: tuple[int, int]) -> Finding:
    """Name what stands out in pieces[start:end]; the span holds at least one piece."""
    at = max(range(*span), key=lambda i: pieces[i].surprise)
    start, end = _word(pieces, at)
    before = "".join(piece.text for piece in pieces[start:at])
    rest = "".join(piece.text for piece in pieces[at + 1 : end])
    expected = [
        (_in_word(before, text, rest), chance(share)) for text, share in pieces[at].expected
    ]
    said = before + pieces[at].text + rest
    quoted = [(_quoted(text), share) for text, share in expected]
    return Finding((start, end), _sentence(said, pieces[at], expected), quoted)


def whole_answer(row_mean: float, corpus_mean: float) -> Sentence:
    """Say that a row's mean loss, nats, lies far above the corpus's; nothing where it does not."""
    if not row_mean >= _MUCH_WORSE * corpus_mean:  # NaN says nothing either
        return ()
    own, usual = number(row_mean, 2), number(corpus_mean, 2)
    return (Said(f"The whole answer is unlikely: {own} nats per token, {usual} in the corpus"),)


def chance(share: float) -> str:
    """0.914 -> '91 %'; NaN, for a probability that nobody gave, is ''."""
    if math.isnan(share):
        return ""
    if share < _LEAST_CHANCE:
        return "< 1 %"
    return "> 99 %" if 1 - _LEAST_CHANCE < share < 1 else f"{100 * share:.0f} %"


def _sentence(said: str, piece: Piece, expected: Sequence[tuple[str, str]]) -> Sentence:
    text, share = expected[0] if expected else (said, "")
    differ_in_space = said != text and said.strip() == text.strip() != ""
    was = _quoted(said, spaces=differ_in_space)
    should = Said(_quoted(text, spaces=differ_in_space), "should")
    start = Said(was[:1].upper() + was[1:], "was")
    told = Said(f" ({share})" if share else "")
    if said == text:
        loss, entropy = number(piece.nll, 1), number(piece.entropy, 1)
        surprise = f" is a surprise: loss {loss} nats where the model's entropy is {entropy}"
        return start, Said(surprise)
    if _END.fullmatch(said.strip()):
        return Said("The answer ends where the model expected "), should, told
    if _END.fullmatch(text.strip()):
        return start, Said(" where the model expected the answer to end"), told
    return start, Said(" where the model expected "), should, told


def _in_word(before: str, text: str, rest: str) -> str:
    """What the model expected between two parts of a word; "…" where its further course is open."""
    inside = _joined(before, text) or text[-1:].isdecimal()
    is_open = inside and _joined(text, rest)
    return text if _END.fullmatch(text.strip()) else before + text + "…" * is_open


def _quoted(text: str, *, spaces: bool = False) -> str:
    if _END.fullmatch(text.strip()):
        return "the end"
    if not spaces and text in _NAMED:
        return _NAMED[text]
    shown = inline(text)
    shown = shown.replace(" ", "␣") if spaces or not text.strip() else shown.strip(" ")
    if not shown.strip(REPLACEMENT):
        return "part of another character"
    cut = shown if len(shown) <= _MOST_CHARACTERS else shown[:_MOST_CHARACTERS] + "…"
    return f"“{cut}”"


def _word(pieces: Sequence[Piece], at: int) -> tuple[int, int]:
    """The word of a piece, together with the one before where the model would have gone on."""
    start, end = at, at + 1
    likeliest = pieces[at].expected[0][0] if pieces[at].expected else ""
    if start and _joined(pieces[start - 1].text, likeliest):  # "5 clips" in place of "50"
        start -= 1
    while start and _joined(pieces[start - 1].text, pieces[start].text):
        start -= 1
    while end < len(pieces) and _joined(pieces[end - 1].text, pieces[end].text):
        end += 1
    return (start, end) if end - start <= _LONGEST_WORD else (at, at + 1)


def _joined(left: str, right: str) -> bool:
    """Whether two texts meet inside a number, or inside a word of a script that has capitals."""
    if not left or not right:
        return False
    a, b = left[-1], right[0]
    return (a.isdecimal() and b.isdecimal()) or (_cased(a) and _cased(b))


def _cased(letter: str) -> bool:
    return letter.lower() != letter.upper()
