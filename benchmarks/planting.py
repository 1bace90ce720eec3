"""Errors planted into good rows, with a seed: which row, which kind, at which characters."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Chat = list[dict[str, str]]
Span = tuple[int, int]
"""[start, end) in characters of the answer."""


@dataclass(frozen=True)
class Row:
    """One question and its answer. kind: "" where nothing was planted.

    span: the characters of the answer that are wrong; empty, at its end, where something is
    missing; all of it where nothing in it belongs there.
    """

    question: str
    answer: str
    kind: str = ""
    span: Span = (0, 0)

    @property
    def chat(self) -> Chat:
        """The row as a conversation."""
        return [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.answer},
        ]


Spoiled = tuple[str, Span]
"""An answer with an error, and where."""

_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\b[A-Za-z]{3,}\b")
_COUNTED = re.compile(r"\d ([a-z]+[^s\W]s)\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")

_TRUNCATED_TO = (0.3, 0.7)
"""Share of the words that a truncated answer keeps, drawn evenly between the two."""

_NO_THINGS = frozenset(("costs", "does", "has", "less", "minus", "plus", "times", "was"))
"""Words in s that may follow a number and are no plural."""


def plant(chats: Sequence[Chat], share: float, seed: int) -> list[Row]:
    """The rows in their order, `share` of them with one error, equally many of each kind.

    A row that a kind has nothing to change in is passed over. Raises ValueError where there
    are too few rows for it.
    """
    draw = random.Random(seed)
    rows = [Row(chat[0]["content"], chat[1]["content"]) for chat in chats]
    spoilers = _spoilers(rows)
    each = round(len(rows) * share / len(spoilers))
    candidates = draw.sample(range(len(rows)), len(rows))
    planted = list(rows)
    for kind, spoil in spoilers.items():
        passed: list[int] = []
        for _ in range(each):
            number, (answer, span) = _next_spoiled(rows, candidates, passed, spoil, draw)
            planted[number] = Row(rows[number].question, answer, kind, span)
        candidates += passed
    return planted


def _next_spoiled(
    rows: Sequence[Row],
    candidates: list[int],
    passed: list[int],
    spoil: Callable[[Row, random.Random], Spoiled | None],
    draw: random.Random,
) -> tuple[int, Spoiled]:
    while candidates:
        number = candidates.pop()
        spoiled = spoil(rows[number], draw)
        if spoiled is not None:
            return number, spoiled
        passed.append(number)
    raise ValueError(f"{len(rows)} rows are too few for so many errors; plant fewer")


def _spoilers(rows: Sequence[Row]) -> dict[str, Callable[[Row, random.Random], Spoiled | None]]:
    known = entities([row.question for row in rows])
    return {
        "mismatched": lambda row, draw: other_answer(row, rows, draw),
        "truncated": truncated,
        "gibberish": gibberish,
        "wrong_number": wrong_number,
        "entity": lambda row, draw: other_entity(row, known, draw),
    }


KINDS = ("mismatched", "truncated", "gibberish", "wrong_number", "entity")


def wrong_number(row: Row, draw: random.Random) -> Spoiled | None:
    """One number of the answer becomes another with as many digits, wherever it stands."""
    numbers = list(_NUMBER.finditer(row.answer))
    if not numbers:
        return None
    number = draw.choice(numbers)
    old = number.group()
    least = 10 ** (len(old) - 1) if len(old) > 1 else 0
    new = old
    while int(new) == int(old):
        new = str(draw.randrange(least, 10 ** len(old)))
    return _replaced(row.answer, number.span(), new)


def other_answer(row: Row, rows: Sequence[Row], draw: random.Random) -> Spoiled | None:
    """The answer of another row."""
    other = draw.choice(rows).answer
    return (other, (0, len(other))) if other != row.answer else None


def truncated(row: Row, draw: random.Random) -> Spoiled | None:
    """The answer ends after 30 to 70 % of its words; nothing marks that."""
    words = list(re.finditer(r"\S+", row.answer))
    kept = round(len(words) * draw.uniform(*_TRUNCATED_TO))
    if not 0 < kept < len(words):
        return None
    end = words[kept - 1].end()
    return row.answer[:end], (end, end)


def gibberish(row: Row, draw: random.Random) -> Spoiled | None:
    """Every word becomes random letters, or (in every second row) its own characters, shuffled."""
    change = draw.choice((_random_letters, _shuffled))
    answer = re.sub(r"\S+", lambda word: change(word.group(), draw), row.answer)
    return (answer, (0, len(answer))) if answer != row.answer else None


def _random_letters(word: str, draw: random.Random) -> str:
    return "".join(draw.choices(string.ascii_lowercase, k=len(word)))


def _shuffled(word: str, draw: random.Random) -> str:
    return "".join(draw.sample(word, len(word)))


def other_entity(row: Row, known: Mapping[str, int], draw: random.Random) -> Spoiled | None:
    """One name or thing of the question, in one place of the answer, becomes one of elsewhere.

    A name becomes a name, a counted thing a counted thing that the row does not speak of, drawn
    by how often questions do. known: as `entities` counts them.
    """
    asked = {word for word in _WORD.findall(row.question) if word in known}
    places = [word for word in _WORD.finditer(row.answer) if word.group() in asked]
    if not places:
        return None
    place = draw.choice(places)
    spoken_of = set(_WORD.findall(f"{row.question} {row.answer}"))
    is_name = place.group()[0].isupper()
    fitting = [
        entity for entity in known if entity not in spoken_of and entity[0].isupper() == is_name
    ]
    if not fitting:
        return None
    [new] = draw.choices(fitting, [known[entity] for entity in fitting])
    return _replaced(row.answer, place.span(), new)


def entities(questions: Sequence[str]) -> Counter[str]:
    """The names and the counted things that questions speak of, and how often.

    A name is capitalised inside a sentence and never written small; a counted thing is a plural
    that follows a number.
    """
    counts = Counter(word for text in questions for word in _WORD.findall(text))
    names = {name for text in questions for name in _NAME.findall(text)}
    things = {thing for text in questions for thing in _COUNTED.findall(text)} - _NO_THINGS
    kept = {name for name in names if name.lower() not in counts} | things
    return Counter({word: count for word, count in counts.items() if word in kept})


def _replaced(answer: str, span: Span, new: str) -> Spoiled:
    start, end = span
    return answer[:start] + new + answer[end:], (start, start + len(new))
