"""Small talk of several turns: what a model needs to have seen before one can chat with it.

Somebody tells a few things about themselves (name, town, trade, a new thing and its colour), asks
for sums and repetitions, and comes back to what was told, so that most of the later answers can
only be had from earlier turns. Half of the rows are in ShareGPT's spelling (from, value), half in
role and content; both are `conversations`.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

from ytrainer_core.demo.general import COLOURS, DAYS, JOBS, PEOPLE, PLACES, THINGS
from ytrainer_core.files import write_text

# Rows of conversations.jsonl: what two cores read in about a minute of tuning.
ROWS = 1_500
# How many exchanges follow the greeting.
EXCHANGES = (2, 6)
# Share of the rows that open with a system message.
WITH_SYSTEM = 0.25
SYSTEM = "You are a friendly assistant who answers in one short sentence."

Exchange = tuple[str, str]
"""What the user says, and the answer."""


def write_conversations(folder: Path, seed: int = 0) -> Path:
    """Write conversations.jsonl, `ROWS` rows that all differ. The same seed gives the same bytes.

    Raises OSError where the folder cannot be written.
    """
    rng = random.Random(seed)
    rows: dict[str, None] = {}
    while len(rows) < ROWS:
        rows.setdefault(json.dumps(_row(_talk(rng), rng), ensure_ascii=False))
    path = folder / "conversations.jsonl"
    write_text(path, "".join(f"{row}\n" for row in rows))
    return path


def _row(talk: list[Exchange], rng: random.Random) -> dict[str, object]:
    turns = [turn for asked, said in talk for turn in (("user", asked), ("assistant", said))]
    if rng.random() < WITH_SYSTEM:
        turns.insert(0, ("system", SYSTEM))
    if rng.random() < 0.5:
        return {"conversations": [{"role": role, "content": text} for role, text in turns]}
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": text} for role, text in turns]}


def _talk(rng: random.Random) -> list[Exchange]:
    """A greeting that tells the name, then facts, questions about them, and tasks, mixed."""
    known: dict[str, str] = {}
    talk = [_greeting(known, rng)]
    for _ in range(rng.randint(*EXCHANGES)):
        kinds: list[Callable[[dict[str, str], random.Random], Exchange]] = [_recall, _task]
        if len(known) < len(_FACTS) + 1:
            kinds.append(_fact)
        talk.append(rng.choices(kinds, (3, 1, 3)[: len(kinds)])[0](known, rng))
    if rng.random() < 0.3:
        talk.append(("Thank you, goodbye.", f"Goodbye, {known['name']}."))
    return talk


def _greeting(known: dict[str, str], rng: random.Random) -> Exchange:
    name = known["name"] = rng.choice(PEOPLE)
    hello = rng.choice(("Hello", "Hi", "Good morning", "Good evening"))
    told = rng.choice((f"my name is {name}", f"I am {name}", f"this is {name}"))
    return f"{hello}, {told}.", f"Hello {name}, how can I help you?"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# What can be told once: values, ways to tell it, the answer, ways to ask for it, that answer.
_FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...], str]] = {
    "town": (
        PLACES,
        ("I live in {town}.", "My home is in {town}."),
        "{town} is a nice town.",
        ("Where do I live?", "In which town is my home?"),
        "You live in {town}.",
    ),
    "job": (
        tuple(map(_article, JOBS)),
        ("I am {job}.", "I work as {job}."),
        "So you are {job}, that is a fine job.",
        ("What is my job?", "What do I work as?"),
        "You are {job}.",
    ),
    "thing": (
        tuple(map(_article, THINGS)),
        ("I bought {thing}.", "Today I have bought {thing}."),
        "I hope you like it.",
        ("What did I buy?", "Which thing is new?"),
        "You bought {thing}.",
    ),
    "colour": (
        COLOURS,
        ("My favourite colour is {colour}.", "I like {colour} best."),
        "Yes, {colour} is a fine colour.",
        ("Which colour do I like?", "What is my favourite colour?"),
        "You like {colour}.",
    ),
    "day": (
        DAYS,
        ("I will come on {day}.", "Please wait for me on {day}."),
        "Then I will see you on {day}.",
        ("When will I come?", "Which day did I say?"),
        "You will come on {day}.",
    ),
}
_NAME_QUESTIONS = ("What is my name?", "Who am I?", "Do you remember my name?")


def _fact(known: dict[str, str], rng: random.Random) -> Exchange:
    fact = rng.choice([fact for fact in _FACTS if fact not in known])
    values, tells, answer, *_ = _FACTS[fact]
    known[fact] = rng.choice(values)
    return rng.choice(tells).format(**known), answer.format(**known)


def _recall(known: dict[str, str], rng: random.Random) -> Exchange:
    """A question about something told before, in this turn's past."""
    fact = rng.choice(list(known))
    if fact == "name":
        return rng.choice(_NAME_QUESTIONS), f"Your name is {known['name']}."
    *_, questions, answer = _FACTS[fact]
    return rng.choice(questions), answer.format(**known)


def _task(known: dict[str, str], rng: random.Random) -> Exchange:
    if rng.random() < 0.5:
        left, right = rng.randint(0, 10), rng.randint(0, 9)
        return f"How much is {left} + {right}?", f"It is {left + right}."
    words = " ".join(rng.sample((*COLOURS, *THINGS), 3))
    return f"Say again: {words}", words
