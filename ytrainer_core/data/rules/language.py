"""Which language a text is in, as far as it can be told.

py3langid gives probabilities over 139 languages. Short and uncertain texts have no language, and
what is no language at all (numbers, markup, code) fits every corpus.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ytrainer_core.data.formats import Row
from ytrainer_core.data.rules.found import Found
from ytrainer_core.errors import ConfigError

# UTF-8 bytes that a text must have for its language to be told: nine words, or twenty characters
# of Chinese ...
_LEAST_BYTES = 60
# ... and characters of it that are read, which say as much as all.
_READ_CHARACTERS = 400
# A text is in a language that has at least this probability ...
_SURE = 0.9
# ... and outside the allowed ones if these have at most this probability together.
_UNLIKELY = 0.02

_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_NO_LANGUAGE = "zxx"

# What the model tells apart and people call one language, or by another code.
_SAME: dict[str, str] = {
    **{"yue": "zh", "wuu": "zh", "cmn": "zh", "ary": "ar", "arz": "ar", "nn": "no", "nb": "no"},
    **{"iw": "he", "in": "id", "uzs": "uz", "sdh": "ku", "gug": "gn"},
}
# Languages so near to each other that a text of the one may well be read as the other.
_NEAR: tuple[frozenset[str], ...] = (frozenset(("sr", "hr", "bs")), frozenset(("id", "ms")))


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language; empty where it cannot be told."""
    sample = _sample(text)
    if not sample:
        return ""
    language, probability = _likeliest(_chances(sample))
    return language if probability >= _SURE and language != _NO_LANGUAGE else ""


def language_of_row(row: Row) -> str:
    """The language of the last answer, or else of all texts of the row together."""
    answers = [turn.content for turn in row.turns if turn.role == "assistant"]
    texts = [*answers[-1:], "\n".join([row.text, *(turn.content for turn in row.turns)])]
    return next((language for text in texts if (language := language_of(text))), "")


def other_languages(languages: Sequence[str]) -> Callable[[str], Found | None]:
    """The rule for texts outside `languages` (ISO 639 codes).

    Raises ConfigError for a code that no language has.
    """
    allowed = _allowed(languages)
    listed = ", ".join(languages)

    def other_language(text: str) -> Found | None:
        sample = _sample(text)
        if not sample:
            return None
        chances = _chances(sample)
        language, probability = _likeliest(chances)
        if language in allowed or probability < _SURE:
            return None
        if sum(chances.get(code, 0.0) for code in allowed) > _UNLIKELY:
            return None
        return Found(
            0,
            f"text that reads as '{language}', which is not among data.languages={listed},",
            "Leave the row out, or add the language.",
        )

    return other_language


def _chances(sample: str) -> dict[str, float]:
    """Language -> its probability, together 1."""
    chances: dict[str, float] = {}
    for code, probability in _identifier().rank(sample):
        name = _SAME.get(code, code)
        chances[name] = chances.get(name, 0.0) + probability
    return chances


def _likeliest(chances: dict[str, float]) -> tuple[str, float]:
    return max(chances.items(), key=lambda item: item[1])


def _allowed(languages: Sequence[str]) -> frozenset[str]:
    known = {_SAME.get(code, code) for code in _identifier().labels} - {_NO_LANGUAGE}
    faults = []
    allowed = {_NO_LANGUAGE}
    for named in languages:
        code = _SAME.get(named.lower(), named.lower())
        if code not in known:
            near = difflib.get_close_matches(code, sorted(known), n=1)
            remedy = f"Did you mean '{near[0]}'?" if near else f"Known are {_list(known)}."
            faults.append(f"data.languages: '{named}' is no ISO 639-1 code that is known. {remedy}")
        allowed |= {code}.union(*(group for group in _NEAR if code in group))
    if faults:
        raise ConfigError(*faults)
    return frozenset(allowed)


def _list(known: set[str]) -> str:
    return ", ".join(sorted(known))


def _sample(text: str) -> str:
    """What of a text is looked at; empty where that is too little."""
    if "```" in text:
        text = _CODE_BLOCK.sub(" ", text)
    sample = text[:_READ_CHARACTERS]
    return sample if len(sample.encode("utf-8", "ignore")) >= _LEAST_BYTES else ""


@cache
def _identifier() -> Any:
    """The model, read once a process (about 5 MB on disk)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
