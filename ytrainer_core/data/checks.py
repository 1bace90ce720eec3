"""Which rules a row is judged by: their names, severities, order, and the book that applies them.

An error takes the row out of the corpus and into the quarantine, with its reason; a warning is
counted and the row stays. A row is quarantined by the first error rule it breaks, so the counts of
the error rules add up to the number of quarantined rows. The rules about single rows are in
data/rules/; some rules are found elsewhere (while reading, while tokenizing, by comparing rows) and
only declared here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ytrainer_core.config.base import as_mapping
from ytrainer_core.config.data import DataConfig, Purpose
from ytrainer_core.data.formats import (
    EMPTY_TEXT,
    NOT_FOR_TRAINING,
    UNKNOWN_SHAPE,
    UNREADABLE,
    Row,
)
from ytrainer_core.data.rules import contact, damage, turns
from ytrainer_core.data.rules.found import Found, Part, Parts, parts_of
from ytrainer_core.data.rules.identity import id_number
from ytrainer_core.data.rules.language import other_languages
from ytrainer_core.data.rules.mojibake import mojibake
from ytrainer_core.data.rules.secret import secret
from ytrainer_core.data.rules.template import foreign_template_tokens, own_tokens, template_tokens
from ytrainer_core.errors import ConfigError

Severity = Literal["error", "warning", "off"]

RowCheck = Callable[[Row, Purpose], str | None]
"""Why a row breaks a rule, or None."""

TextCheck = Callable[[str], Found | None]
"""The first fault in one text of a row, or None."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One validation rule and its severity where data.rules does not say otherwise."""

    name: str
    severity: Severity
    description: str


def _errors(**descriptions: str) -> Iterator[Rule]:
    return (Rule(name, "error", description) for name, description in descriptions.items())


def _warnings(**descriptions: str) -> Iterator[Rule]:
    return (Rule(name, "warning", description) for name, description in descriptions.items())


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        *_errors(
            unreadable_row="the row is not JSON, or holds characters that cannot be written",
            unknown_shape="the row has not the fields of its format",
            empty_text="a raw document is empty",
            not_for_training="the answer is labelled bad, and the purpose would imitate it",
            wrong_purpose="the row lacks what data.purpose needs: a label, a rejected answer, "
            "a question or an answer",
            no_assistant_turn="the conversation has no answer",
            wrong_role_order="roles follow in an order that no chat has",
            empty_prompt="a user turn is empty",
            empty_answer="an assistant turn is empty",
            same_answers="the chosen and the rejected answer are the same",
            control_characters="the text holds control characters",
            replacement_characters="the text holds U+FFFD, the mark of lost characters",
            mojibake="the text was read in a wrong encoding",
            template_tokens="a turn holds special tokens of the tokenizer",
            language="the text is in a language that is not among data.languages",
            template_refused="the model's chat template cannot print the conversation",
            too_long="the row is longer than data.max_length",
            no_trained_token="no token of the row carries a label",
            exact_duplicate="the same conversation stands earlier in the corpus",
            contradicting_answers="the same prompt has different answers",
            leakage="the conversation or its prompt stands in the validation rows",
            too_few_rows="fewer rows are left than data.min_rows",
        ),
        *_warnings(
            repetition="an answer repeats itself",
            secret="the text holds a key, a token or a password",
            id_number="the text holds the number of an identity card or a payment card",
            phone="the text holds a phone number",
            email="the text holds an e-mail address",
            url="the text holds a web address",
            foreign_template_tokens="the text holds marks of another model's chat template",
            near_duplicate="nearly the same text stands earlier in the corpus",
            near_leakage="nearly the same text stands in the validation rows",
            truncated="the row was longer than data.max_length and is cut",
            split="the row was longer than data.max_length and is trained in pieces",
            label_imbalance="one of the two KTO labels is rare",
        ),
    )
}
"""Every rule by its name, in the order in which a row is judged."""

# Without these there is no row: nothing of it could be kept.
_ALWAYS_ERRORS = (UNREADABLE, UNKNOWN_SHAPE, EMPTY_TEXT, "template_refused")

_ROW_CHECKS: Mapping[str, RowCheck] = {
    NOT_FOR_TRAINING: turns.not_for_training,
    "wrong_purpose": turns.wrong_purpose,
    "no_assistant_turn": turns.no_assistant_turn,
    "wrong_role_order": turns.wrong_role_order,
    "empty_prompt": turns.empty_prompt,
    "empty_answer": turns.empty_answer,
    "same_answers": turns.same_answers,
}
_TEXT_CHECKS: Mapping[str, TextCheck] = {
    "control_characters": damage.control_characters,
    "replacement_characters": damage.replacement_characters,
    "mojibake": mojibake,
    "repetition": damage.repetition,
    "secret": secret,
    "id_number": id_number,
    "phone": contact.phone,
    "email": contact.email,
    "url": contact.url,
}
# Rules that need not look at every text of a row.
_BEYOND_ASCII = ("replacement_characters", "mojibake")
_ANSWERS = ("repetition",)
_TURNS = ("template_tokens",)  # raw text may be chats that were printed already


@dataclass(frozen=True, slots=True)
class Judged:
    """What a row broke by itself, as (rule, reason): the first error, or else all warnings."""

    error: tuple[str, str] | None
    warnings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule that is on: it has a check of the row, or one of its texts."""

    name: str
    of_row: RowCheck | None
    of_text: TextCheck | None
    texts: Callable[[Parts], list[Part]]

    def reason(self, row: Row, parts: Parts, purpose: Purpose) -> str | None:
        if self.of_row:
            return self.of_row(row, purpose)
        if self.of_text:
            for part in self.texts(parts):
                if found := self.of_text(part.text):
                    return part.reason(found)
        return None


class RuleBook:
    """The rules that a config turns on, ready to judge rows.

    special_tokens: the tokenizer's, as text; no row should hold one (template_tokens).
    Raises ConfigError for a rule or a language that does not exist, all faults at once. It can be
    pickled; the other side makes it anew.
    """

    def __init__(self, config: DataConfig, special_tokens: Sequence[str] = ()) -> None:
        self._made_of = (config, tuple(special_tokens))
        self._purpose: Purpose = config.purpose
        self._severities = _severities(config)
        own = own_tokens(special_tokens)
        texts = dict(_TEXT_CHECKS)
        texts["foreign_template_tokens"] = foreign_template_tokens(own)
        if own is not None:
            texts["template_tokens"] = template_tokens(own)
        if self._severities["language"] != "off":
            texts["language"] = other_languages(config.languages)
        on = [_check(name, texts) for name in RULES if name in _ROW_CHECKS or name in texts]
        self._errors = [check for check in on if self._severities[check.name] == "error"]
        self._warnings = [check for check in on if self._severities[check.name] == "warning"]

    def __reduce__(self) -> tuple[type[RuleBook], tuple[DataConfig, tuple[str, ...]]]:
        return RuleBook, self._made_of

    def severity(self, name: str) -> Severity:
        """What breaking the rule means in this corpus. KeyError where there is no such rule."""
        return self._severities[name]

    def judge(self, row: Row) -> Judged:
        """Apply the rules about single rows."""
        parts = parts_of(row)
        if error := next(self._broken(self._errors, row, parts), None):
            return Judged(error, ())
        return Judged(None, tuple(self._broken(self._warnings, row, parts)))

    def _broken(
        self, checks: Sequence[_Check], row: Row, parts: Parts
    ) -> Iterator[tuple[str, str]]:
        for check in checks:
            if reason := check.reason(row, parts, self._purpose):
                yield check.name, reason


def _check(name: str, texts: Mapping[str, TextCheck]) -> _Check:
    chosen: Callable[[Parts], list[Part]] = _all
    if name in _BEYOND_ASCII:
        chosen = _beyond_ascii
    elif name in _ANSWERS:
        chosen = _answers
    elif name in _TURNS:
        chosen = _turns
    return _Check(name, _ROW_CHECKS.get(name), texts.get(name), chosen)


def _all(parts: Parts) -> list[Part]:
    return parts.all


def _turns(parts: Parts) -> list[Part]:
    return parts.turns


def _beyond_ascii(parts: Parts) -> list[Part]:
    return parts.beyond_ascii


def _answers(parts: Parts) -> list[Part]:
    return parts.answers


def _severities(config: DataConfig) -> dict[str, Severity]:
    """The severity of every rule. Raises ConfigError, all faults at once."""
    asked = as_mapping(config.rules)
    faults = [_unknown_rule(name) for name in asked if name not in RULES]
    faults += [
        f"data.rules: '{name}' must stay an error, for nothing of such a row can be kept. "
        f"Leave {name}={asked[name]} out."
        for name in _ALWAYS_ERRORS
        if asked.get(name, "error") != "error"
    ]
    if asked.get("language", "off") != "off" and not config.languages:
        faults.append(
            "data.rules: 'language' has no effect while data.languages is empty. Set it, e.g. "
            "data.languages=en, or leave the rule out."
        )
    if faults:
        raise ConfigError(*faults)
    severities: dict[str, Severity] = {name: rule.severity for name, rule in RULES.items()}
    if not config.languages:
        severities["language"] = "off"
    for name, severity in asked.items():
        severities[name] = _SEVERITIES[severity]
    return severities


_SEVERITIES: Mapping[str, Severity] = {"error": "error", "warning": "warning", "off": "off"}


def _unknown_rule(name: str) -> str:
    near = difflib.get_close_matches(name, RULES, n=1)
    remedy = f"Did you mean '{near[0]}'?" if near else f"Rules are {', '.join(RULES)}."
    return f"data.rules: '{name}' is no rule. {remedy}"
