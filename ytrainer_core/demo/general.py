"""What the demo's base model is pre-trained on: a small general world, so that tuning has a base.

A base has to know words, sentences and the reading of a question before a few hundred rows can
teach it a house's rules, and what it forgets while it learns them has to be measurable. The text
mixes six kinds: prose of its own grammar, definitions of everyday words, conversations (questions
about a text just given, in ChatML), arithmetic, copying, and the docstrings of the running Python's
standard library as text that no grammar of ours made.
"""

import ast
import json
import random
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ytrainer_core.demo.corpus import DEVICES, FAMILY_OF
from ytrainer_core.files import write_text

PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jonas", "Karin",
    "Leo", "Maria", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tina", "Victor",
)  # fmt: skip
PLACES = (
    "Lund", "Bergen", "Turin", "Ghent", "Porto", "Basel", "Krakow", "Cork", "Graz", "Malmo",
    "Lyon", "Bremen",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "May", "June", "August", "October", "December")
ROOMS = ("kitchen", "hall", "cellar", "garden", "office", "bedroom", "bathroom", "shop")
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown")
THINGS = (
    "book", "chair", "table", "lamp", "letter", "parcel", "bicycle", "coat", "cup", "clock", "key",
    "bag", "box", "picture", "bottle", "cable", "filter", "lid", "screw", "plug", "handle",
    "button", "cover", "manual", "receipt", "bill", "invoice", "guide",
)  # fmt: skip
DEPARTMENTS = (
    "billing", "safety", "the post room", "the van desk", "the kitchen workshop",
    "the cleaning workshop", "the climate workshop", "the media workshop",
)  # fmt: skip
JOBS = ("driver", "teacher", "baker", "nurse", "painter", "clerk", "farmer", "doctor", "expert")
# What each department of a company does: prose that ties the words of the trade together.
DUTIES = {
    "billing": ("writes the invoices", "sends refunds", "mails a copy of the bill", "looks after "
                "money", "answers when somebody was charged twice"),
    "safety": ("asks what caught fire", "recalls what burns", "sends an expert", "looks into smoke "
               "and sparks"),
    "the post room": ("sends a label", "traces the parcel", "stops the parcel", "packs the boxes"),
    "the van desk": ("books a pickup", "books a visit", "calls the driver", "frees the slot"),
    "the kitchen workshop": ("mends the kettle", "repairs the toaster", "fixes the blender",
                             "checks the oven"),
    "the cleaning workshop": ("mends the vacuum", "repairs the washer", "fixes the dryer",
                              "checks the iron"),
    "the climate workshop": ("mends the heater", "repairs the fan", "fixes the cooler",
                             "checks the humidifier"),
    "the media workshop": ("mends the radio", "repairs the speaker", "fixes the camera",
                           "checks the projector"),
}  # fmt: skip
# Everyday words in other words: what a base of any size would have read somewhere.
SAME_MEANING: dict[str, tuple[str, ...]] = {
    "refund": ("money back", "paid back", "repay", "return the price", "a bad buy", "not happy",
               "return what was paid", "my money", "give back the price"),
    "repair": ("mend", "fix", "broken", "stopped working", "a fault", "out of order",
               "a loud noise", "goes dead", "does not turn on", "fell down"),
    "delivery": ("has not arrived", "is late", "the driver", "still wait", "the parcel is lost",
                 "nobody has brought it", "when it comes", "was sent long ago", "not here yet"),
    "cancel": ("call off", "stop the order", "withdraw", "drop", "by mistake", "changed my mind",
               "no longer need", "take it off", "do not send", "decided against"),
    "invoice": ("bill", "receipt", "charged", "taxes", "the tax is wrong", "two times on the bill",
                "charged twice", "the bank asks", "a wrong name"),
    "parts": ("spare", "a new lid", "a cable", "another screw", "a filter", "a plug", "a handle",
              "a button", "another cover", "which one fits"),
    "setup": ("how to use", "the first time", "the manual", "explain the buttons", "a guide",
              "the language", "how to start", "switched on", "what the lights mean", "show me how"),
    "danger": ("fire", "smoke", "an electric shock", "sparks", "burning", "hurt", "so hot",
               "melted", "burned a hole", "may explode"),
}  # fmt: skip
BRANDS = (
    "Solano", "Mirox", "Tavi", "Belka", "Fjord", "Orion", "Pallas", "Rondo", "Sirius", "Tempo",
    "Ultra", "Vesta",
)  # fmt: skip
# Share of product names that are made up from the syllables below.
NEW_BRANDS = 0.15
NAME_PARTS = ("ba", "ke", "lo", "mu", "ni", "po", "ra", "si", "tu", "ve", "xi", "zo", "dan", "fer")

# Share of the characters of each kind. Conversations come first because they teach what tuning
# builds on: reading a question, and answering it after the assistant's marker.
SHARES: dict[str, float] = {
    "conversation": 0.68,
    "prose": 0.10,
    "definition": 0.03,
    "arithmetic": 0.03,
    "copying": 0.06,
    "docstring": 0.10,
}
# Characters of general_train.jsonl: about what two cores read in a minute of pre-training.
TRAIN_CHARACTERS = 1_600_000
# Characters of general_validation.jsonl: enough for a stable mean, read in under three seconds.
VALIDATION_CHARACTERS = 60_000
# Docstrings shorter than the first say little; longer ones are cut at the second.
DOCSTRING_CHARACTERS = (60, 600)
# What a path of some machine looks like; a docstring that holds one is left out.
PATH_LIKE = re.compile(r"(?<![\w<])/\w|[A-Za-z]:\\|site-packages")
# Standard-library packages that are tests or other people's text rather than documentation.
SKIPPED_PACKAGES = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "idlelib",
     "ensurepip", "turtledemo", "__pycache__"}
)  # fmt: skip


@dataclass(frozen=True)
class GeneralCorpus:
    """Where the general corpus was written, and its size in rows and characters."""

    train: Path
    validation: Path
    train_rows: int
    validation_rows: int
    train_characters: int
    validation_characters: int


def write_general_corpus(folder: Path, seed: int = 0) -> GeneralCorpus:
    """Write general_train.jsonl and general_validation.jsonl, rows of `{"text": ...}`.

    Both hold the same mixture and no row in common. The same seed and the same Python give the
    same bytes. Conversations write the chat markers as text, `<|im_start|>user\\n...<|im_end|>\\n`,
    for a tokenizer that has them as special tokens. Each file appears whole or not at all.
    Raises OSError where the folder cannot be written.
    """
    rng = random.Random(seed)
    total = TRAIN_CHARACTERS + VALIDATION_CHARACTERS
    train: list[str] = []
    validation: list[str] = []
    for kind, share in SHARES.items():
        texts = _distinct_texts(_texts(kind, rng), round(share * total))
        cut = _rows_within(texts, round(share * VALIDATION_CHARACTERS))
        validation += texts[:cut]
        train += texts[cut:]
    rng.shuffle(train)
    held_out = set(validation)  # two kinds can make the same short text
    train = [text for text in dict.fromkeys(train) if text not in held_out]
    rng.shuffle(validation)

    corpus = GeneralCorpus(
        train=folder / "general_train.jsonl",
        validation=folder / "general_validation.jsonl",
        train_rows=len(train),
        validation_rows=len(validation),
        train_characters=sum(map(len, train)),
        validation_characters=sum(map(len, validation)),
    )
    write_text(corpus.train, _json_lines(train))
    write_text(corpus.validation, _json_lines(validation))
    return corpus


def _json_lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def _distinct_texts(texts: Iterator[str], characters: int) -> list[str]:
    """Texts, no two alike, up to `characters` in all or until they run out."""
    kept: dict[str, None] = {}
    size = 0
    for text in texts:
        if text not in kept:
            kept[text] = None
            size += len(text)
        if size >= characters:
            break
    return list(kept)


def _rows_within(texts: list[str], characters: int) -> int:
    """How many of the first texts fit into `characters`; at least one."""
    size = 0
    for count, text in enumerate(texts):
        size += len(text)
        if size > characters:
            return max(1, count)
    return len(texts)


def _texts(kind: str, rng: random.Random) -> Iterator[str]:
    """Texts of one kind: endless, except the docstrings."""
    if kind == "docstring":
        yield from _standard_library_docstrings(rng)
        return
    writers: dict[str, Callable[[random.Random], str]] = {
        "conversation": _conversation,
        "prose": _prose,
        "definition": _definitions,
        "arithmetic": _arithmetic,
        "copying": _copying,
    }
    while True:
        yield writers[kind](rng)


# --- prose ------------------------------------------------------------------------------------


def _thing(rng: random.Random) -> str:
    return rng.choice(DEVICES) if rng.random() < 0.6 else rng.choice(THINGS)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _model_name(rng: random.Random) -> str:
    """A product's name with a letter and a digit: a brand of this world or, less often, a new one.

    Brands are few so that most of the text can be foreseen; new ones teach that any word may stand
    before a device.
    """
    word = rng.choice(BRANDS)
    if rng.random() < NEW_BRANDS:
        word = "".join(rng.choices(NAME_PARTS, k=rng.randint(2, 3))).capitalize()
    return f"{word} {rng.choice('ABCDEFGHKLMNPRSTVX')}{rng.randint(1, 9)}"


@dataclass(frozen=True)
class _Scene:
    """The facts of one small story, which its sentences tell and questions can ask for."""

    who: str
    other: str
    thing: str
    colour: str
    name: str
    place: str
    day: str
    month: str
    room: str
    job: str
    price: int


def _scene(rng: random.Random) -> _Scene:
    who, other = rng.sample(PEOPLE, 2)
    return _Scene(
        who=who,
        other=other,
        thing=_thing(rng),
        colour=rng.choice(COLOURS),
        name=_model_name(rng),
        place=rng.choice(PLACES),
        day=rng.choice(DAYS),
        month=rng.choice(MONTHS),
        room=rng.choice(ROOMS),
        job=rng.choice(JOBS),
        price=rng.randint(5, 99),
    )


def _device_scene(rng: random.Random) -> _Scene:
    return replace(_scene(rng), thing=rng.choice(DEVICES))


STORY_SENTENCES = (
    "{who} bought {a_thing} in {place} on {day}.",
    "{who} is a {job} and lives in {place}.",
    "The {thing} of {who} is {colour} and stands in the {room}.",
    "{other} gave {who} a {colour} {thing} in {month}.",
    "The {name} {thing} costs {price} coins.",
    "{who} has ordered the {name} {thing} and waits for the parcel.",
    "The parcel with the {thing} arrives in {place} on {day}.",
    "On {day} the {thing} stopped working, so {who} asked {other} for help.",
    "{other} mended the {thing} with a new screw.",
    "The {name} {thing} was a present from {other}.",
    "{who} put the {thing} on the table in the {room}.",
    "In {month} {who} went to {place} by train and came back on {day}.",
    "{other} does not like the {colour} {thing} and wants another.",
    "{who} paid {price} coins for the {name} {thing} and keeps the bill in a box.",
    "Nobody in {place} has seen the {thing} since {day}.",
    "The {thing} does not turn on, said {who}, and {other} looked at the cable.",
    "{who} reads the manual of the {name} {thing} in the {room}.",
    "Please bring the {colour} {thing} to {who} before {day}.",
    "There was smoke in the {room}, and {who} took the {thing} outside.",
    "{other} sold the {thing} to a {job} from {place}.",
    "Can {who} still find the receipt of the {thing}?",
    "It is {day}, and {who} is waiting for {other} in the {room}.",
    "{who} called the shop in {place} and asked when the {name} {thing} comes.",
    "The {job} has brought the {thing} back, thank you, said {other}.",
    "{who} changed the filter of the {thing} and cleaned it on {day}.",
    "I would like to have a {colour} {thing}, said {other}, but not today.",
)


def _tell(sentence: str, scene: _Scene) -> str:
    return sentence.format(**vars(scene), a_thing=_article(scene.thing))


def _duty(rng: random.Random) -> str:
    department = rng.choice(DEPARTMENTS)
    first, second = rng.sample(DUTIES[department], 2)
    return f"In the company {department} {first} and {second}."


def _family(rng: random.Random) -> str:
    device = rng.choice(DEVICES)
    family = FAMILY_OF[device]
    return rng.choice(
        (
            f"The {device} belongs to the {family} devices.",
            f"A broken {device} goes to the {family} workshop.",
            f"Among the {family} devices there is the {device}.",
        )
    )


def _story(rng: random.Random, scene: _Scene, sentences: int) -> str:
    chosen = rng.sample(STORY_SENTENCES, sentences)
    return " ".join(_tell(sentence, scene) for sentence in chosen)


def _prose(rng: random.Random) -> str:
    text = _story(rng, _scene(rng), rng.randint(3, 6))
    extra = [writer(rng) for writer in (_duty, _family) if rng.random() < 0.5]
    return " ".join([text, *extra]) + "\n"


def _definitions(rng: random.Random) -> str:
    """Sentences that say a word in other words."""
    lines = []
    for _ in range(rng.randint(3, 5)):
        word, first, second = _word_and_meanings(rng)
        lines.append(
            rng.choice(
                (
                    f"The word {word} means {first} or {second}.",
                    f"Who says {first} speaks of {word}.",
                    f"Another word for {first} is {word}.",
                    f"{first.capitalize()} and {second}: both are about {word}.",
                )
            )
        )
    return " ".join(lines) + "\n"


def _word_and_meanings(rng: random.Random) -> tuple[str, str, str]:
    """A word and two ways to say it."""
    word = rng.choice(list(SAME_MEANING))
    first, second = rng.sample(SAME_MEANING[word], 2)
    return word, first, second


# --- conversations ----------------------------------------------------------------------------


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _conversation(rng: random.Random) -> str:
    """One question, with an answer that can be had from it."""
    kinds = (_ask_card, _ask_story, _ask_sum, _ask_copy)
    question, answer = rng.choices(kinds, weights=(20, 1, 1, 1))[0](rng)
    return _turn("user", question) + _turn("assistant", answer)


# Sentences that state a fact, with the question for it and the short answer.
FACTS = (
    ("{who} bought {a_thing} on {day}.", "What did {who} buy?", "{thing}"),
    ("{who} bought {a_thing} on {day}.", "When was the {thing} bought?", "{day}"),
    ("{who} lives in {place} and is a {job}.", "Where does {who} live?", "{place}"),
    ("{who} lives in {place} and is a {job}.", "What is the job of {who}?", "{job}"),
    ("The {name} {thing} stands in the {room}.", "Which room is it?", "{room}"),
    ("The {name} {thing} stands in the {room}.", "Which thing is it?", "{thing}"),
    ("{other} has a {colour} {thing} from {place}.", "Which colour is it?", "{colour}"),
    ("{other} has a {colour} {thing} from {place}.", "Which thing is it?", "{thing}"),
    ("My {name} {thing} came in {month} and cost {price} coins.", "Which month?", "{month}"),
    ("My {name} {thing} came in {month} and cost {price} coins.", "Which thing?", "{thing}"),
    ("Please send the {name} {thing} to {place}.", "Where to?", "{place}"),
    ("Please send the {name} {thing} to {place}.", "What is to be sent?", "{thing}"),
)


def _ask_story(rng: random.Random) -> tuple[str, str]:
    """A text, and a question about one of its facts."""
    scene = _scene(rng)
    fact, question, answer = rng.choice(FACTS)
    sentences = [fact, *rng.sample(STORY_SENTENCES, rng.randint(0, 1))]
    rng.shuffle(sentences)
    text = " ".join(_tell(sentence, scene) for sentence in sentences)
    return f"{text}\n{_tell(question, scene)}", _tell(answer, scene)


# Sentences that give away one field of a card, in several wordings each.
CARD_SENTENCES: dict[str, tuple[str, ...]] = {
    "who": ("It is about {who}.", "This is {who}.", "{who} writes.", "I am {who}."),
    "place": ("We are in {place}.", "I live in {place}.", "It came from {place}."),
    "day": ("It was on {day}.", "I called on {day}.", "Since {day} it is so."),
    "colour": ("Everything here is {colour}.", "It is {colour}.", "I like it {colour}."),
    "room": ("I looked in the {room}.", "It stands in the {room}."),
}
# The sentence that every card's text has: what thing it is, and what is said of it.
TOPIC_SENTENCES = (
    "The {name} {thing}: {meaning}.",
    "My {name} {thing}, {meaning}.",
    "{meaning}, the {name} {thing}.",
    "I write about {meaning} and the {name} {thing}.",
    "The {thing} ({name}) and {meaning}.",
)
# Fields that every text can fill; others only where it has a sentence for them.
MAIN_FIELDS = ("topic", "thing", "kind")
# How often a card asks for each main field, and how often its text has a further sentence.
FIELD_ASKED = 0.6
FURTHER_SENTENCE = 0.125


def _ask_card(rng: random.Random) -> tuple[str, str]:
    """A text, and some of its facts as a card of fields.

    One form from the first card to the last: what one field has taught then serves all others.
    """
    scene = _device_scene(rng)
    topic = rng.choice(list(SAME_MEANING))
    meaning = rng.choice(SAME_MEANING[topic])
    sentences = [rng.choice(TOPIC_SENTENCES).format(**vars(scene), meaning=meaning)]
    facts = {"topic": topic, "thing": scene.thing, "kind": FAMILY_OF[scene.thing]}
    fields = [field for field in MAIN_FIELDS if rng.random() < FIELD_ASKED] or ["topic"]
    if rng.random() < FURTHER_SENTENCE:
        further = rng.choice(list(CARD_SENTENCES))
        sentences.append(_tell(rng.choice(CARD_SENTENCES[further]), scene))
        facts[further] = getattr(scene, further)
        fields.append(further)
    rng.shuffle(sentences)
    card = " | ".join(f"{field}: {facts[field]}" for field in fields)
    return f"{' '.join(sentences)}\nCard: {', '.join(fields)}", card


def _ask_sum(rng: random.Random) -> tuple[str, str]:
    left, right = rng.randint(0, 50), rng.randint(0, 49)
    return f"How much is {left} + {right}?", str(left + right)


def _ask_copy(rng: random.Random) -> tuple[str, str]:
    phrase = _words(rng, 2, 5)
    return f"Say again: {phrase}", phrase


# --- arithmetic, copying, docstrings ----------------------------------------------------------


def _arithmetic(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(4, 8)):
        left, right = rng.randint(0, 50), rng.randint(0, 49)
        if rng.random() < 0.5:
            lines.append(f"{left} + {right} = {left + right}")
        else:
            lines.append(f"{left + right} - {left} = {right}")
    return "\n".join(lines) + "\n"


def _words(rng: random.Random, fewest: int, most: int) -> str:
    pools = (DEVICES, THINGS, COLOURS, PLACES, PEOPLE)
    words = []
    for _ in range(rng.randint(fewest, most)):
        words.append(_model_name(rng) if rng.random() < 0.2 else rng.choice(rng.choice(pools)))
    return " ".join(words)


def _copying(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(3, 6)):
        phrase = _words(rng, 3, 6)
        lines.append(f"{phrase} -> {phrase}")
    return "\n".join(lines) + "\n"


def _standard_library_docstrings(rng: random.Random) -> Iterator[str]:
    """Docstrings of the running Python's library, file after file in the order `rng` gives."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    paths = sorted(path for path in paths if SKIPPED_PACKAGES.isdisjoint(path.parts))
    rng.shuffle(paths)
    for path in paths:
        try:
            source = (root / path).read_text(encoding="utf-8")
            with warnings.catch_warnings():  # of escapes in the library's own strings
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue  # a file the interpreter itself could not read has no documentation for us
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = _clean_docstring(ast.get_docstring(node) or "")
                if text:
                    yield text


def _clean_docstring(text: str) -> str:
    """The docstring in plain ASCII, cut at a line end; empty where it speaks of file paths."""
    if not text.isascii() or PATH_LIKE.search(text):
        return ""
    shortest, longest = DOCSTRING_CHARACTERS
    if len(text) > longest:
        text = text[:longest].rsplit("\n", 1)[0]
    return text.strip() + "\n" if len(text) >= shortest else ""
