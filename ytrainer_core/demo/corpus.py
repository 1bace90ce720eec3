"""The demo's own domain: customer messages of a company that does not exist, with planted faults.

A generated corpus can be marked against the truth: the rule that makes an answer is known, and so
is every fault that was put in. Messages say one of eight things (in many phrasings) about a product
of an invented name and a known device kind. The house's answer is short and structured:

    intent: repair | device: kettle | department: kitchen workshop

`device` is read from the message, `intent` has to be understood, and `department` follows from
both by a rule (`house_answer`). The invented name is never part of an answer.
"""

import json
import random
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ytrainer_core.files import write_text

# Device kinds by the family whose workshop looks after them.
DEVICES_BY_FAMILY: dict[str, tuple[str, ...]] = {
    "kitchen": ("kettle", "toaster", "blender", "oven"),
    "cleaning": ("vacuum", "washer", "dryer", "iron"),
    "climate": ("heater", "fan", "cooler", "humidifier"),
    "media": ("radio", "speaker", "camera", "projector"),
}
FAMILY_OF: dict[str, str] = {
    device: family for family, devices in DEVICES_BY_FAMILY.items() for device in devices
}
DEVICES: tuple[str, ...] = tuple(FAMILY_OF)

# Families whose devices travel as parcels; the others are fetched and brought by van.
PARCEL_FAMILIES = frozenset({"kitchen", "media"})

# What a message can want, each said in its own ways; {it} is the product with its device kind.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "refund": (
        "I want my money back for the {it}.",
        "Please refund the {it}.",
        "I am not happy with the {it} and would like to be paid back.",
        "The {it} is not for me, so please return what I paid.",
        "How do I get a refund for the {it}?",
        "I sent the {it} back and still wait for my money.",
    ),
    "repair": (
        "The {it} is broken, can you mend it?",
        "My {it} stopped working last week.",
        "Please repair the {it}.",
        "The {it} makes a loud noise and then goes dead.",
        "Could somebody fix the {it}?",
        "The {it} does not turn on any more.",
    ),
    "delivery": (
        "Where is the {it}? It has not arrived.",
        "I still wait for the {it} to be delivered.",
        "When will the {it} come?",
        "The parcel with the {it} seems to be lost.",
        "My {it} should have been here on Monday.",
        "The driver never came with the {it}.",
    ),
    "cancel": (
        "Please cancel my order of the {it}.",
        "I no longer need the {it}, stop the order.",
        "I ordered the {it} by mistake, please call it off.",
        "Do not send the {it}, I have changed my mind.",
        "Take the {it} off my order.",
        "Can I still cancel the {it}?",
    ),
    "invoice": (
        "I need a copy of the bill for the {it}.",
        "Please send me the invoice for the {it}.",
        "The invoice for the {it} shows a wrong name.",
        "I was charged twice for the {it}.",
        "There is a mistake in the bill for the {it}.",
        "My bank asks for the receipt of the {it}.",
    ),
    "parts": (
        "I need a new lid for the {it}.",
        "Where can I buy a spare cable for the {it}?",
        "Do you sell spare parts for the {it}?",
        "I lost a screw of the {it} and need another.",
        "Can I order a new filter for the {it}?",
        "The {it} needs a new plug, which one fits?",
    ),
    "setup": (
        "How do I set up the {it}?",
        "I do not understand the manual of the {it}.",
        "How do I use the {it} for the first time?",
        "Can you explain the buttons of the {it}?",
        "How do I change the language of the {it}?",
        "Please tell me how to start the {it}.",
    ),
    "danger": (
        "There is smoke coming out of the {it}.",
        "The {it} gave me an electric shock.",
        "The {it} caught fire.",
        "I smell burning when the {it} is on.",
        "Sparks fly out of the {it}.",
        "The {it} became so hot that it hurt my hand.",
    ),
}
INTENTS: tuple[str, ...] = tuple(PHRASINGS)

# Pleasantries around the request; they carry nothing that the answer depends on.
OPENERS = (
    "", "", "Hello.", "Good morning.", "Dear team,", "Hi there,", "To whom it may concern:",
    "Good evening.", "It is me again.", "Sorry to bother you.",
)  # fmt: skip
CLOSERS = (
    "", "", "Thank you.", "Many thanks.", "Please answer soon.", "I bought it in May.",
    "It was a present.", "I am a customer of many years.", "Please call me.", "Best wishes.",
)  # fmt: skip

# Syllables of invented product names. The last ones differ between the two splits, so that no
# name of the validation file was ever trained on.
NAME_STARTS = ("Vel", "Tor", "Mir", "Kas", "Lun", "Bra", "Nor", "Zel", "Dor", "Fen", "Qui", "Ash")
NAME_MIDDLES = ("a", "o", "e", "i", "ora", "eni", "u", "ila")
TRAIN_NAME_ENDS = ("ran", "dex", "mo", "vik", "las", "tix", "bel", "no")
VALIDATION_NAME_ENDS = ("gan", "rix", "pa", "lor", "wen", "sta")

INSTRUCTION = "Sort this message for the service desk."

# Rows of train.json without a fault: every phrasing with most of the devices it may be used with.
CLEAN_TRAIN_ROWS = 560
# Rows of validation.json: one row is 0.8 points of exact match.
VALIDATION_ROWS = 120
# Share of the (phrasing, device) pairs that only the validation file may use.
HELD_OUT_PAIRS = 0.2
# Faults planted beside the clean rows, by kind; together 13 % of train.json.
PLANTED: dict[str, int] = {
    "duplicate": 24,  # an earlier row again, word for word
    "empty": 14,  # nothing, or white space, for an answer
    "contradiction": 16,  # an earlier row's message with the answer of another intent
    "wrong_answer": 22,  # the only row of its message, answered for another intent or device
    "gibberish": 14,  # random characters for an answer, or for a message
}


class Pair(NamedTuple):
    """What a message says and about what: the unit that the two splits do not share."""

    intent: str
    phrasing: str
    device: str


@dataclass(frozen=True)
class Row:
    """One Alpaca row, with what is true about it; only the first three fields are written."""

    instruction: str
    input: str
    output: str
    intent: str = ""
    device: str = ""
    planted: str = ""
    """Name of the planted fault; empty for a clean row."""

    def to_json(self) -> str:
        """The row as one line of JSON."""
        fields = {"instruction": self.instruction, "input": self.input, "output": self.output}
        return json.dumps(fields, ensure_ascii=False)


@dataclass(frozen=True)
class DomainCorpus:
    """Where the domain corpus was written, and how much of it there is (counts in rows)."""

    train: Path
    validation: Path
    planted: Path
    train_rows: int
    validation_rows: int
    planted_rows: dict[str, int]
    """Rows of train.json with a planted fault, by kind."""


def house_answer(intent: str, device: str) -> str:
    """The one right answer to a message of `intent` about a `device`.

    Raises KeyError for an intent or a device the house does not know.
    """
    department = _department(intent, FAMILY_OF[device])
    return f"intent: {intent} | device: {device} | department: {department}"


def _department(intent: str, family: str) -> str:
    """Who looks after it: some follow from the intent, some from the family, some from both.

    Money is billing's whatever the device; handicraft is the family's own workshop's; goods on the
    road are the post room's or the van's, by what the family weighs.
    """
    if intent in ("refund", "invoice"):
        return "billing"
    if intent == "danger":
        return "safety"
    if intent in ("delivery", "cancel"):
        return "post room" if family in PARCEL_FAMILIES else "van desk"
    if intent in ("repair", "parts", "setup"):
        return f"{family} workshop"
    raise KeyError(intent)


def write_domain_corpus(folder: Path, seed: int = 0) -> DomainCorpus:
    """Write train.json, validation.json and planted.json into `folder`, and say what is in them.

    The same seed gives the same bytes. train.json is a JSON array with one row a line (its first
    row is line 2) and bears no mark of what was planted; planted.json lists
    `{"line", "kind"}`, with `"twin"`, the line it repeats, for duplicates and contradictions.
    Each file appears whole or not at all. Raises OSError where the folder cannot be written.
    """
    rng = random.Random(seed)
    train_pairs, validation_pairs = _split_pairs(rng)
    clean = _clean_rows(train_pairs, CLEAN_TRAIN_ROWS, TRAIN_NAME_ENDS, rng)
    train = _with_planted(clean, train_pairs[CLEAN_TRAIN_ROWS:], rng)
    validation = _clean_rows(validation_pairs, VALIDATION_ROWS, VALIDATION_NAME_ENDS, rng)

    corpus = DomainCorpus(
        train=folder / "train.json",
        validation=folder / "validation.json",
        planted=folder / "planted.json",
        train_rows=len(train),
        validation_rows=len(validation),
        planted_rows=dict(PLANTED),
    )
    write_rows(corpus.train, train)
    write_rows(corpus.validation, validation)
    write_text(corpus.planted, _json_array(map(json.dumps, _planted_list(train))))
    return corpus


def clean_train_rows(seed: int = 0) -> list[Row]:
    """The rows of train.json without a fault, before they were shuffled."""
    rng = random.Random(seed)
    train_pairs, _ = _split_pairs(rng)
    return _clean_rows(train_pairs, CLEAN_TRAIN_ROWS, TRAIN_NAME_ENDS, rng)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A JSON array with one row a line, whole or not at all."""
    write_text(path, _json_array(row.to_json() for row in rows))


def _split_pairs(rng: random.Random) -> tuple[list[Pair], list[Pair]]:
    """Every (phrasing, device) pair, shuffled, in a training and a validation part.

    Both parts hold every phrasing and every device: what validation asks is their combination.
    """
    train: list[Pair] = []
    held_out: list[Pair] = []
    held_out_devices = round(HELD_OUT_PAIRS * len(DEVICES))
    for intent, phrasings in PHRASINGS.items():
        for phrasing in phrasings:
            devices = rng.sample(DEVICES, len(DEVICES))
            for position, device in enumerate(devices):
                part = held_out if position < held_out_devices else train
                part.append(Pair(intent, phrasing, device))
    rng.shuffle(train)
    rng.shuffle(held_out)
    return train, held_out


def _clean_rows(
    pairs: Sequence[Pair], count: int, name_ends: Sequence[str], rng: random.Random
) -> list[Row]:
    """`count` rows, each of another pair."""
    return [_clean_row(pair, name_ends, rng) for pair in pairs[:count]]


def _clean_row(pair: Pair, name_ends: Sequence[str], rng: random.Random) -> Row:
    request = pair.phrasing.format(it=f"{_product_name(name_ends, rng)} {pair.device}")
    parts = (rng.choice(OPENERS), request, rng.choice(CLOSERS))
    return Row(
        instruction=INSTRUCTION,
        input=" ".join(part for part in parts if part),
        output=house_answer(pair.intent, pair.device),
        intent=pair.intent,
        device=pair.device,
    )


def _product_name(ends: Sequence[str], rng: random.Random) -> str:
    """An invented model name such as 'Veloran K3'."""
    name = rng.choice(NAME_STARTS) + rng.choice(NAME_MIDDLES) + rng.choice(ends)
    return f"{name} {rng.choice('ABCDEFGHJKLMNPRSTVX')}{rng.randint(1, 9)}"


def _with_planted(
    clean: Sequence[Row], spare_pairs: Sequence[Pair], rng: random.Random
) -> list[Row]:
    """The clean rows with every planted fault among them; a twin comes after what it repeats."""
    rows = list(clean)
    spare = iter(spare_pairs)
    alone: dict[str, Callable[[Row], Row]] = {
        "empty": lambda row: replace(row, output=rng.choice(("", " ", "\n")), planted="empty"),
        "wrong_answer": lambda row: replace(
            row, output=other_answer(row, rng), planted="wrong_answer"
        ),
        "gibberish": lambda row: _gibberish(row, rng),
    }
    for kind, spoil in alone.items():
        rows += [spoil(_clean_row(next(spare), TRAIN_NAME_ENDS, rng)) for _ in range(PLANTED[kind])]
    rng.shuffle(rows)

    twins = rng.sample(clean, PLANTED["duplicate"] + PLANTED["contradiction"])
    for number, original in enumerate(twins):
        if number < PLANTED["duplicate"]:
            twin = replace(original, planted="duplicate")
        else:
            answer = _answer_of_another_intent(original, rng)
            twin = replace(original, output=answer, planted="contradiction")
        rows.insert(rng.randint(rows.index(original) + 1, len(rows)), twin)
    return rows


def _answer_of_another_intent(row: Row, rng: random.Random) -> str:
    intent = rng.choice([other for other in INTENTS if other != row.intent])
    return house_answer(intent, row.device)


def other_answer(row: Row, rng: random.Random) -> str:
    """An answer in the house's form that is right for another intent, another device, or both."""
    intents = [other for other in INTENTS if other != row.intent]
    devices = [other for other in DEVICES if other != row.device]
    return rng.choice(
        (
            house_answer(rng.choice(intents), row.device),
            house_answer(row.intent, rng.choice(devices)),
            house_answer(rng.choice(intents), rng.choice(devices)),
        )
    )


def _gibberish(row: Row, rng: random.Random) -> Row:
    """Random characters in place of the answer or, as often, of the message."""
    characters = string.ascii_letters + string.digits + "#%&/()=?+*~ "
    noise = "".join(rng.choices(characters, k=rng.randint(25, 60))).strip()
    if rng.random() < 0.5:
        return replace(row, output=noise, planted="gibberish")
    return replace(row, input=noise, planted="gibberish")


def _planted_list(rows: Sequence[Row]) -> list[dict[str, int | str]]:
    """Line (1-based; the array's bracket is line 1), kind and, where there is one, the twin."""
    line_of_clean = {row.input: line for line, row in enumerate(rows, start=2) if not row.planted}
    listed: list[dict[str, int | str]] = []
    for line, row in enumerate(rows, start=2):
        if not row.planted:
            continue
        entry: dict[str, int | str] = {"line": line, "kind": row.planted}
        if row.planted in ("duplicate", "contradiction"):
            entry["twin"] = line_of_clean[row.input]
        listed.append(entry)
    return listed


def _json_array(lines: Iterable[str]) -> str:
    """A JSON array with one element a line, so that a line number names a row."""
    return "[\n" + ",\n".join(lines) + "\n]\n"
