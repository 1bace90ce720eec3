"""What makes a row unfit to train on: one small function a rule, each with a name and a severity.

An error takes the row out of the corpus and into the quarantine, with its reason; a warning is
counted and the row stays. A row is quarantined by the first error rule it breaks, so the counts of
the error rules add up to the number of quarantined rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ytrainer_core.data.formats import (
    EMPTY_TEXT,
    NOT_FOR_TRAINING,
    UNKNOWN_SHAPE,
    UNREADABLE,
    Row,
    Turn,
)

Severity = Literal["error", "warning"]

# Origins of other rows that one reason names; the rest are counted.
_NAMED_ORIGINS = 3
_DIGEST_BYTES = 16

# Tab, line feed, form feed, carriage return and next line are layout; all others are damage.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
_REPLACEMENT = "\ufffd"

# A word, or one character of a script that is written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
# A loop says the same few words again: answers of at least so many words ...
_LOOP_MIN_WORDS = 40
# ... whose runs of this many words ...
_LOOP_RUN = 4
# ... are for the most part repeats (share of distinct runs below this).
_LOOP_DISTINCT_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Rule:
    """One validation rule. check says why a row breaks it, or None; None where it is found
    elsewhere: while reading, while tokenizing, or by comparing rows."""

    name: str
    severity: Severity
    description: str
    check: Callable[[Row], str | None] | None = None


def no_assistant_turn(row: Row) -> str | None:
    if any(turn.role == "assistant" for turn in row.turns):
        return None
    roles = ", ".join(turn.role for turn in row.turns) or "no turns at all"
    return f"has no assistant turn ({roles}), so nothing can be trained. Add the answer."


def wrong_role_order(row: Row) -> str | None:
    before = "start"
    for number, turn in enumerate(row.turns):
        if before not in _MAY_FOLLOW[turn.role]:
            after = "at the start" if before == "start" else f"after '{before}'"
            return (
                f"turn {number + 1} is '{turn.role}' {after}. A conversation is an optional system "
                "turn, then user and assistant in turns; tool results follow an assistant turn."
            )
        before = turn.role
    return None


_MAY_FOLLOW: Mapping[str, frozenset[str]] = {
    "system": frozenset({"start"}),
    "user": frozenset({"start", "system", "assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"assistant", "tool"}),
}


def empty_prompt(row: Row) -> str | None:
    if all(turn.content.strip() for turn in row.turns if turn.role == "user"):
        return None
    return "has a user turn without text. Write the prompt, or leave the row out."


def empty_answer(row: Row) -> str | None:
    if all(turn.content.strip() for turn in row.turns if turn.role == "assistant"):
        return None
    return "has an assistant turn without text. Write the answer, or leave the row out."


def control_characters(row: Row) -> str | None:
    for where, text in _texts(row):
        if found := _CONTROL.search(text):
            return (
                f"{where} holds the control character U+{ord(found.group()):04X} at character "
                f"{found.start()}. Remove it; it is often a wrong encoding (data.encoding)."
            )
    return None


def replacement_characters(row: Row) -> str | None:
    for where, text in _texts(row):
        if (at := text.find(_REPLACEMENT)) >= 0:
            return (
                f"{where} holds U+FFFD at character {at}, the mark of a character that an earlier "
                "conversion lost. Convert the row again from its source in the right encoding."
            )
    return None


def repetition(row: Row) -> str | None:
    for number, turn in enumerate(row.turns):
        if turn.role == "assistant" and _is_loop(turn.content):
            return f"turn {number + 1} says the same words again and again. Cut the loop."
    return None


def _is_loop(text: str) -> bool:
    words = _WORD.findall(text)
    if len(words) < _LOOP_MIN_WORDS:
        return False
    runs = [tuple(words[i : i + _LOOP_RUN]) for i in range(len(words) - _LOOP_RUN + 1)]
    return len(set(runs)) < _LOOP_DISTINCT_SHARE * len(runs)


def _texts(row: Row) -> Iterable[tuple[str, str]]:
    if not row.turns:
        yield "the text", row.text
    for number, turn in enumerate(row.turns):
        yield f"turn {number + 1} ({turn.role})", turn.content


# Rules that need a conversation; raw text is checked by the others only.
_CONVERSATION_RULES = (no_assistant_turn, wrong_role_order, empty_prompt, empty_answer)


def _rule(
    name: str,
    description: str,
    check: Callable[[Row], str | None] | None = None,
    severity: Severity = "error",
) -> Rule:
    return Rule(name, severity, description, check)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        _rule(UNREADABLE, "the row is not JSON, or holds characters that cannot be written"),
        _rule(UNKNOWN_SHAPE, "the row has not the fields of its format"),
        _rule(NOT_FOR_TRAINING, "the row says itself that its answer is not to be imitated"),
        _rule("no_assistant_turn", "the conversation has no answer", no_assistant_turn),
        _rule("wrong_role_order", "roles follow in an order that no chat has", wrong_role_order),
        _rule("empty_prompt", "a user turn is empty", empty_prompt),
        _rule("empty_answer", "an assistant turn is empty", empty_answer),
        _rule(EMPTY_TEXT, "a raw document is empty"),
        _rule("control_characters", "the text holds control characters", control_characters),
        _rule("replacement_characters", "the text holds U+FFFD", replacement_characters),
        _rule("template_refused", "the model's chat template cannot print the conversation"),
        _rule("too_long", "the row is longer than data.max_length"),
        _rule("no_trained_token", "no token of the row carries a label"),
        _rule("exact_duplicate", "the same conversation stands earlier in the corpus"),
        _rule("contradicting_answers", "the same prompt has different answers"),
        _rule("leakage", "the conversation or its prompt stands in the validation rows"),
        _rule("repetition", "an answer repeats itself", repetition, "warning"),
        _rule("truncated", "the row was longer than data.max_length and is cut", None, "warning"),
    )
}


_ERRORS = [rule for rule in RULES.values() if rule.check and rule.severity == "error"]
_WARNINGS = [rule for rule in RULES.values() if rule.check and rule.severity == "warning"]


def first_error(row: Row) -> tuple[str, str] | None:
    """(rule, reason) of the first error rule that the row breaks by itself, or None."""
    return next(_broken(_ERRORS, row), None)


def warnings_of(row: Row) -> tuple[str, ...]:
    """Names of the warning rules that the row breaks by itself."""
    return tuple(rule for rule, _ in _broken(_WARNINGS, row))


def _broken(rules: Iterable[Rule], row: Row) -> Iterator[tuple[str, str]]:
    document = bool(row.text) and not row.turns
    for rule in rules:
        if rule.check and not (document and rule.check in _CONVERSATION_RULES):
            reason = rule.check(row)
            if reason:
                yield rule.name, reason


# --- rules that compare rows ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why comparing rows quarantines one: rule, and positions of the rows it clashes with."""

    rule: str
    others: Sequence[int]


@dataclass
class Index:
    """Digests of the rows of one split by which equal rows and equal prompts are found.

    Positions count the split's rows from 0. About 250 bytes a row are held in memory.
    """

    positions: list[int] = field(default_factory=list)
    wholes: list[bytes] = field(default_factory=list)
    prompts: list[bytes] = field(default_factory=list)

    def add(self, position: int, row: Row) -> None:
        """Remember a row. Rows must be added in the order of their positions."""
        self.positions.append(position)
        self.wholes.append(_digest(row.turns, row.text))
        self.prompts.append(_digest(_prompt(row), "") if row.turns else b"")

    def without(self, verdicts: Mapping[int, Verdict]) -> Index:
        """The index of the rows that no verdict takes out."""
        kept = [i for i, position in enumerate(self.positions) if position not in verdicts]
        return Index(
            [self.positions[i] for i in kept],
            [self.wholes[i] for i in kept],
            [self.prompts[i] for i in kept],
        )


def _prompt(row: Row) -> Sequence[Turn]:
    """What the last answer answers: all turns before it."""
    last = max(i for i, turn in enumerate(row.turns) if turn.role == "assistant")
    return row.turns[:last]


def _digest(turns: Sequence[Turn], text: str) -> bytes:
    """Equal for rows that differ in nothing but white space at the ends of their texts."""
    parts = [(turn.role, turn.content.strip()) for turn in turns] or [("text", text.strip())]
    # Lengths keep two neighbours apart: ('a', 'bc') is not ('ab', 'c').
    joined = "".join(f"{role}:{len(said)}:{said}" for role, said in parts)
    return hashlib.blake2b(joined.encode(), digest_size=_DIGEST_BYTES).digest()


def exact_duplicates(index: Index) -> dict[int, Verdict]:
    """Every row that stands in full at an earlier position."""
    first: dict[bytes, int] = {}
    found: dict[int, Verdict] = {}
    for position, whole in zip(index.positions, index.wholes, strict=True):
        earlier = first.setdefault(whole, position)
        if earlier != position:
            found[position] = Verdict("exact_duplicate", (earlier,))
    return found


def contradicting_answers(index: Index) -> dict[int, Verdict]:
    """All rows of a prompt that has more than one answer: nobody can tell which is right.

    The index must hold no duplicates, so equal prompts mean different answers.
    """
    groups: dict[bytes, list[int]] = {}
    for position, prompt in zip(index.positions, index.prompts, strict=True):
        if prompt:
            groups.setdefault(prompt, []).append(position)
    clashing = (group for group in groups.values() if len(group) > 1)
    return {p: Verdict("contradicting_answers", group) for group in clashing for p in group}


def leakage(train: Index, validation: Index) -> dict[int, Verdict]:
    """Training rows that stand in validation, in full or by their prompt.

    The others of a verdict are positions in validation.
    """
    held_out = dict(zip(validation.wholes, validation.positions, strict=True))
    asked = dict(zip(validation.prompts, validation.positions, strict=True))
    found: dict[int, Verdict] = {}
    for position, whole, prompt in zip(train.positions, train.wholes, train.prompts, strict=True):
        same = held_out.get(whole, asked.get(prompt) if prompt else None)
        if same is not None:
            found[position] = Verdict("leakage", (same,))
    return found


def compare_rows(index: Index) -> dict[int, Verdict]:
    """The verdicts of comparing the rows of one split with each other."""
    duplicates = exact_duplicates(index)
    return duplicates | contradicting_answers(index.without(duplicates))


_REASONS: Mapping[str, str] = {
    "exact_duplicate": "is the same as {others}. Keep one of them.",
    "contradicting_answers": (
        "has the same prompt as {others}, but another answer, and nobody can tell which is right. "
        "Keep the right one."
    ),
    "leakage": (
        "has the prompt of the validation row {others}, so validation would measure memory. "
        "Take it out of one of the two."
    ),
}


def verdict_reason(position: int, verdict: Verdict, origin_of: Callable[[int], str]) -> str:
    """The reason of a verdict in words, naming the first of the other rows."""
    others = [p for p in verdict.others if verdict.rule == "leakage" or p != position]
    named = ", ".join(origin_of(p) for p in others[:_NAMED_ORIGINS])
    if len(others) > _NAMED_ORIGINS:
        named += f" and {len(others) - _NAMED_ORIGINS} more"
    return _REASONS[verdict.rule].format(others=named)
