"""Answers that were liked or not, by a rule that can be checked: a polite closing sentence.

Every prompt has one answer, so nothing is paired. The liked answers end with one of `CLOSINGS`,
the others do not; what stands before it is right in both.
"""

import json
import random
from pathlib import Path

from ytrainer_core.demo.general import COLOURS, JOBS, PEOPLE, PLACES, THINGS
from ytrainer_core.files import write_text

ROWS = 400
CLOSINGS = (
    "Thank you for asking.",
    "I hope this helps you.",
    "Please ask me again.",
)
_LIKED_SHARE = 0.5

_EXCHANGES = (
    ("{name} lives in {place} and works as {job}. Where does {name} live?", "In {place}."),
    ("{name} bought a {colour} {thing}. What did {name} buy?", "A {colour} {thing}."),
    ("The {thing} of {name} is {colour}. Which colour is it?", "It is {colour}, {name} says."),
    ("{name} works as {job} in {place}. What is the job?", "{name} works as {job}."),
    ("How much is {left} + {right}, asks {name}?", "It is {sum}, {name}."),
)


def write_preferences(folder: Path, seed: int = 0) -> Path:
    """Write preferences.jsonl, `ROWS` rows of messages with a label, all answers different.

    The same seed gives the same bytes. Raises OSError where the folder cannot be written.
    """
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    asked: set[str] = set()
    while len(rows) < ROWS:
        question, answer = _exchange(rng)
        liked = rng.random() < _LIKED_SHARE
        if liked:
            answer = f"{answer} {rng.choice(CLOSINGS)}"
        turns = [("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": text} for role, text in turns]
        line = json.dumps({"messages": messages, "label": liked}, ensure_ascii=False)
        if question not in asked:
            rows.setdefault(answer, line)
            asked.add(question)
    path = folder / "preferences.jsonl"
    write_text(path, "".join(f"{line}\n" for line in rows.values()))
    return path


def is_polite(answer: str) -> bool:
    """Whether an answer has what the liked ones have."""
    return answer.rstrip().endswith(CLOSINGS)


def _exchange(rng: random.Random) -> tuple[str, str]:
    left, right = rng.randint(0, 9), rng.randint(0, 9)
    words = {
        "name": rng.choice(PEOPLE),
        "place": rng.choice(PLACES),
        "job": rng.choice(JOBS),
        "colour": rng.choice(COLOURS),
        "thing": rng.choice(THINGS),
        "left": left,
        "right": right,
        "sum": left + right,
    }
    question, answer = rng.choice(_EXCHANGES)
    return question.format(**words), answer.format(**words)
