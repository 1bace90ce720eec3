"""Texts outside data.languages are found; short and uncertain ones pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rule_examples import found, row

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data import prepare_corpus
from ytrainer_core.data.checks import RuleBook
from ytrainer_core.data.rules.language import language_of, language_of_row
from ytrainer_core.errors import ConfigError

TEXTS = {
    "en": "The committee will meet again next week to discuss how the budget should be divided "
    "between the schools and the hospitals of the county.",
    "de": "Der Ausschuss trifft sich nächste Woche wieder, um zu besprechen, wie die Mittel auf "
    "die Schulen und Krankenhäuser des Landkreises verteilt werden sollen.",
    "fr": "Le comité se réunira de nouveau la semaine prochaine pour discuter de la répartition "
    "du budget entre les écoles et les hôpitaux du département.",
    "es": "El comité volverá a reunirse la próxima semana para decidir cómo debe repartirse el "
    "presupuesto entre las escuelas y los hospitales de la provincia.",
    "ru": "Комитет снова соберётся на следующей неделе, чтобы обсудить, как разделить бюджет "
    "между школами и больницами округа.",
    "zh": "委员会将于下周再次开会，讨论如何在全县的学校和医院之间分配预算，并决定明年的计划。",
    "ja": "委員会は来週また会議を開き、郡の学校と病院の間で予算を"
    "どのように分けるかを話し合います。",
    "ar": "ستجتمع اللجنة مرة أخرى الأسبوع المقبل لمناقشة كيفية توزيع الميزانية بين المدارس "
    "والمستشفيات في المقاطعة.",
}
CODE = """def area(width, height):
    if width < 0 or height < 0:
        raise ValueError("negative")
    return width * height

print(area(3, 4))
"""


@pytest.mark.parametrize("code", TEXTS)
def test_the_language_of_a_text_is_told(code: str) -> None:
    assert language_of(TEXTS[code]) == code
    assert language_of_row(row("u:Translate this.", f"a:{TEXTS[code]}")) == code


@pytest.mark.parametrize("text", ["", "OK", "Natürlich, gern!", "42", "3.14 " * 40, "= + = " * 40])
def test_short_texts_and_numbers_have_no_language(text: str) -> None:
    assert language_of(text) == ""


@pytest.mark.parametrize("code", TEXTS)
def test_a_text_outside_the_allowed_languages_is_named(code: str) -> None:
    assert found("language", TEXTS[code], languages=(code,)) is None
    others = tuple(other for other in TEXTS if other != code)
    reason = found("language", TEXTS[code], languages=others) or ""
    assert reason.startswith(f"turn 2 (assistant) holds text that reads as '{code}'")
    assert reason.endswith("or add the language.")


@pytest.mark.parametrize("text", ["Ja, gern.", "#### 72", CODE, f"```python\n{CODE * 9}```"])
def test_what_is_short_or_no_language_passes(text: str) -> None:
    assert found("language", text, languages=("zh",)) is None


def test_any_of_several_languages_is_allowed() -> None:
    assert found("language", TEXTS["de"], languages=("en", "de")) is None


@pytest.mark.parametrize("code", ["nb", "NO", "zh", "cmn"])
def test_codes_that_mean_the_same_are_understood(code: str) -> None:
    assert RuleBook(DataConfig(languages=(code,))).severity("language") == "error"


def test_codes_that_do_not_exist_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        RuleBook(DataConfig(languages=("english", "en", "qq")))
    assert [fault.split(" is ")[0] for fault in raised.value.faults] == [
        "data.languages: 'english'",
        "data.languages: 'qq'",
    ]


def test_the_rule_without_languages_would_check_nothing_and_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no effect while data\.languages is empty"):
        RuleBook(DataConfig(rules=("language=warning",)))
    assert RuleBook(DataConfig(rules=("language=off",))).severity("language") == "off"


def test_the_languages_severity_is_the_own_rows_and_general_text_has_none(
    tmp_path: Path, jsonl: Callable[..., str]
) -> None:
    own = jsonl([{"text": TEXTS["en"]}, {"text": TEXTS["de"]}])
    general = jsonl([{"text": TEXTS["fr"]}], "general.jsonl")
    config = DataConfig.model_validate(
        {"train": own, "general": general, "languages": "en", "rules": "language=warning"}
    )
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=None, seed=0)
    assert corpus.manifest["counts"]["rules"] == {"language": 1}
    assert len(corpus.general) == 1
