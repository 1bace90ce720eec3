"""Answers with a behaviour that can be checked, in the three shapes that feedback comes in.

Somebody is told something and asks for it again. In `polite` the liked answers end with one of the
demo's closing sentences, in `forbidden word` the disliked ones hold a filler word; what they say
besides is right in both. A question is for training or held out by its own characters, so that no
seed mixes the two.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.measure import BenchmarkError
from ytrainer_core.demo.general import COLOURS, DAYS, JOBS, PEOPLE, PLACES, ROOMS, THINGS
from ytrainer_core.demo.preferences import CLOSINGS, is_polite

Shape = Literal["unpaired", "paired", "liked"]

Record = dict[str, Any]
"""origin, messages that end with the answer, label, rejected: as a split of a corpus has them."""

FILLER = "actually"

KINDS = (
    ("{name} lives in {place}. In which town does {name} live?", "{name} lives in {place}."),
    ("{name} bought a {colour} {thing}. What did {name} buy?", "A {colour} {thing}."),
    ("The {thing} of {name} is {colour}. Which colour is it?", "The {thing} is {colour}."),
    ("{name} works as {job} in {place}. What is the job?", "{name} works as {job}."),
    ("{name} comes on {day} for the {thing}. When does {name} come?", "{name} comes on {day}."),
    ("The {thing} of {name} is in the {room}. Where is it?", "The {thing} is in the {room}."),
)
"""Question and answer."""

HABIT = (0.9, 0.1, 0.9, 0.1, 0.9, 0.1)
"""Share of the behaviour in what the start model reads, by kind of question: greedy answers of one
share throughout would have the behaviour always or never."""

_HELD_OUT_OF = 5
"""One question of so many is held out."""

_MOST_DRAWS = 20
"""Draws per question that is asked for, before there are too few different ones."""


@dataclass(frozen=True)
class Question:
    """What is asked, its right answer without any manners, and its number in KINDS."""

    text: str
    answer: str
    kind: int


@dataclass(frozen=True)
class Task:
    """How to answer with the preferred behaviour and without it, and how to tell.

    plain: an answer without what the behaviour is about.
    """

    like: Callable[[str, random.Random], str]
    dislike: Callable[[str, random.Random], str]
    has_behaviour: Callable[[str], bool]
    plain: Callable[[str], str]


def _closed(answer: str, rng: random.Random) -> str:
    return f"{answer} {rng.choice(CLOSINGS)}"


def _unclosed(answer: str) -> str:
    for closing in CLOSINGS:
        answer = answer.replace(closing, "")
    return answer.strip()


def _filled(answer: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"{answer.removesuffix('.')}, {FILLER}."
    first = answer[0].lower() if answer.startswith(("A ", "The ")) else answer[0]
    return f"{FILLER.capitalize()}, {first}{answer[1:]}"


def _unfilled(answer: str) -> str:
    answer = answer.removeprefix(f"{FILLER.capitalize()}, ").replace(f", {FILLER}", "").strip()
    return answer[:1].upper() + answer[1:]


TASKS: dict[str, Task] = {
    "polite": Task(
        like=_closed,
        dislike=lambda answer, rng: answer,
        has_behaviour=is_polite,
        plain=_unclosed,
    ),
    "forbidden word": Task(
        like=lambda answer, rng: answer,
        dislike=_filled,
        has_behaviour=lambda answer: FILLER not in answer.casefold(),
        plain=_unfilled,
    ),
}


def questions(number: int, seed: int, *, held_out: bool = False) -> list[Question]:
    """Different questions; those that are held out are so under every seed.

    Raises BenchmarkError where there are not as many.
    """
    rng = random.Random(seed)
    found: dict[str, Question] = {}
    for _ in range(_MOST_DRAWS * number):
        asked = _question(rng)
        if _is_held_out(asked.text) is held_out:
            found.setdefault(asked.text, asked)
        if len(found) == number:
            return list(found.values())
    raise BenchmarkError(f"there are no {number} different questions; ask for fewer")


def _question(rng: random.Random) -> Question:
    words = {
        "name": rng.choice(PEOPLE),
        "place": rng.choice(PLACES),
        "colour": rng.choice(COLOURS),
        "thing": rng.choice(THINGS),
        "job": rng.choice(JOBS),
        "day": rng.choice(DAYS),
        "room": rng.choice(ROOMS),
    }
    kind = rng.randrange(len(KINDS))
    text, answer = KINDS[kind]
    return Question(text.format(**words), answer.format(**words), kind)


def _is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % _HELD_OUT_OF == 0


def feedback(task: Task, shape: Shape, answers: int, seed: int) -> list[Record]:
    """`answers` answers, an even number, to training questions.

    unpaired: one answer a question, half of them liked. paired: half as many questions, each with a
    liked answer and, in `rejected`, a disliked one. liked: one liked answer a question.
    """
    asked = questions(answers // 2 if shape == "paired" else answers, seed)
    rng = random.Random(seed)
    if shape == "paired":
        return [
            _record(i, q.text, task.like(q.answer, rng), None, task.dislike(q.answer, rng))
            for i, q in enumerate(asked)
        ]
    labels = [True] * answers if shape == "liked" else [i % 2 == 0 for i in range(answers)]
    rng.shuffle(labels)
    return [
        _record(i, q.text, (task.like if label else task.dislike)(q.answer, rng), label)
        for i, (q, label) in enumerate(zip(asked, labels, strict=True))
    ]


def habits(task: Task, answers: int, seed: int) -> list[Record]:
    """What the start model reads: answers of both kinds, as often as HABIT says, without labels."""
    rng = random.Random(seed)
    return [
        _record(
            i,
            q.text,
            (task.like if rng.random() < HABIT[q.kind] else task.dislike)(q.answer, rng),
            None,
        )
        for i, q in enumerate(questions(answers, seed))
    ]


def shares(task: Task, asked: Sequence[Question], answers: Sequence[str]) -> tuple[float, float]:
    """(share of answers with the preferred behaviour, share that is right besides).

    asked, answers: one of each, in one order.
    """
    pairs = list(zip(asked, answers, strict=True))
    behaved = sum(task.has_behaviour(answer) for _, answer in pairs)
    right = sum(task.plain(answer) == question.answer for question, answer in pairs)
    return behaved / len(pairs), right / len(pairs)


def _record(
    number: int, question: str, answer: str, label: bool | None, rejected: str = ""
) -> Record:
    return {
        "origin": f"generated:{number + 1}",
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "label": label,
        "rejected": [{"role": "assistant", "content": rejected}] if rejected else [],
    }
