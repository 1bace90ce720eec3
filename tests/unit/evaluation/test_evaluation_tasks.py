"""How an answer compares with the expected one, by hand."""

from __future__ import annotations

import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.config.judging import AnswerMetric
from ytrainer_core.errors import ConfigError
from ytrainer_core.evaluation.json_answers import json_valid
from ytrainer_core.evaluation.numeric import number_of, numeric
from ytrainer_core.evaluation.tasks import (
    answer_metrics,
    exact_match,
    normalized_match,
    rouge_l,
    token_f1,
)


@pytest.mark.parametrize(
    "answer, expected, match",
    [
        ("42", "42", 1.0),
        (" 42\n", "42", 1.0),
        ("42.", "42", 0.0),
        ("Paris", "paris", 0.0),
        ("a  b", "a b", 0.0),
        ("", "", 1.0),
        ("", "42", 0.0),
    ],
)
def test_exact_match_forgives_white_space_at_the_ends_and_nothing_else(
    answer: str, expected: str, match: float
) -> None:
    assert exact_match(answer, expected) == match


@pytest.mark.parametrize(
    "answer, expected, match",
    [
        ("The  Eiffel Tower.", "eiffel tower", 1.0),
        ("an apple\n", "Apple!", 1.0),
        ("another", "other", 0.0),  # an article is a word of its own
        ("Straße", "STRASSE", 1.0),
        ("ＡＢＣ　１２", "abc 12", 1.0),  # full width
        ("ﬁne", "fine", 1.0),  # a ligature
        ("well-known", "well known", 0.0),  # as SQuAD's script: punctuation goes without a blank
        ("北京。", "北京", 1.0),
        ("北京 是 首都，", "北京是首都", 1.0),
        ("GPT 模型", "GPT模型", 1.0),
        ("北京", "东京", 0.0),
        ("「はい」、そうです。", "はいそうです", 1.0),
        ("", "the answer", 0.0),
        # What normalizing would leave nothing of stays.
        ("", "A", 0.0),
        ("the", "A", 0.0),
        ("a", "A", 1.0),
        ("-", "+", 0.0),
        ("+", " + ", 1.0),
        ("...", "", 0.0),
        ("", " ", 1.0),
    ],
)
def test_normalized_match_forgives_case_punctuation_articles_and_white_space(
    answer: str, expected: str, match: float
) -> None:
    assert normalized_match(answer, expected) == match


@pytest.mark.parametrize(
    "answer, expected, f1",
    [
        ("the cat sat", "the cat sat", 1.0),
        ("sat the cat", "the cat sat", 1.0),  # the order does not count
        ("the dog", "the cat sat", 0.4),  # 2 x 1 / (2 + 3)
        ("a a a", "a b", 0.4),  # a counts once: precision 1/3, recall 1/2
        ("a a b", "a a c", 2 / 3),
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("x", "", 0.0),
        ("", "", 1.0),
        (" ", "", 1.0),
    ],
)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(
    answer: str, expected: str, f1: float
) -> None:
    assert token_f1(answer, expected) == pytest.approx(f1)


@pytest.mark.parametrize(
    "answer, expected, f1",
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, §3: S2
        ("the gunman kill police", "police killed the gunman", 2 / 4),  # S3: the gunman
        ("The gunman, police killed!", "police killed the gunman", 2 / 4),
        ("a b c", "a x b y c z", 2 * 3 / (3 + 6)),
        ("b a", "a b", 1 / 2),
        ("我们去北京", "我们去东京", 4 / 5),
        ("我们 去 北京。", "我们去北京", 1.0),
        ("模型 GPT-4", "模型 GPT-4 好", 2 * 4 / (4 + 5)),  # 模 型 gpt 4 · 好
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("", "", 1.0),
        ("++", "--", 0.0),  # no words at all: as they are
    ],
)
def test_rouge_l_is_f1_of_the_longest_common_subsequence_of_words(
    answer: str, expected: str, f1: float
) -> None:
    assert rouge_l(answer, expected) == pytest.approx(f1)


def plain_subsequence(one: str, other: str) -> int:
    """Longest common subsequence by the textbook's table."""
    above = [0] * (len(other) + 1)
    for left in one:
        row = [0]
        for at, right in enumerate(other):
            row.append(above[at] + 1 if left == right else max(above[at + 1], row[at]))
        above = row
    return above[-1]


@given(st.text("abcd", min_size=1, max_size=90), st.text("abcd", min_size=1, max_size=90))
def test_the_longest_common_subsequence_is_that_of_the_table(one: str, other: str) -> None:
    f1 = rouge_l(" ".join(one), " ".join(other))
    assert f1 == pytest.approx(2 * plain_subsequence(one, other) / (len(one) + len(other)))


@pytest.mark.parametrize(
    "text, value",
    [
        ("The answer is 72.", 72),
        ("5 * 3 = 15\n#### 1,200", 1200),
        ("#### 7\nI could be wrong by 3.", 7),
        ("#### $-1,234.50 in all", -1234.5),
        ("#### Step 2: add 3 and 4", 4),  # a heading is no answer
        (r"so $\boxed{42}$, which is 6 times 7", 42),
        (r"\boxed{\frac{3}{4}}", 0.75),
        (r"\boxed{-\dfrac{1}{2}}", -0.5),
        (r"\boxed{3\frac{1}{2}}", 3.5),
        (r"first \boxed{1}, then \boxed{x = 5}", 5),
        (r"\boxed{1{,}000}", 1000),
        (r"\boxed{10\,000}", 10000),
        (r"$\$18.00$", 18),
        ("3/4", 0.75),
        ("1 1/2 cups", 1.5),
        ("-1/2", -0.5),
        ("1,234,567.89", 1234567.89),
        ("3, 4, 5", 5),
        (".5", 0.5),
        ("x=-3", -3),
        ("−3", -3),
        ("-$5", -5),
        ("10-12", 12),  # a range, not -12
        ("- 5 apples", 5),  # a list, not -5
        ("12 cm2", 12),
        ("12 m^2", 12),
        ("5^2 = 25", 25),
        (r"3 \times 10^{5}", 300000),
        ("2.5e-3", 0.0025),
        ("version 1.2.3", 1.2),
        ("共72个", 72),
        ("答案是：７２，０００。", 72000),
        ("٤٢", 42),
        ("1/0", None),
        ("10^2", None),
        ("H2O", None),
        ("none", None),
        (r"\boxed{\text{none}} of 5", None),
        ("9" * 400, None),
        ("", None),
    ],
)
def test_the_number_of_an_answer_is_what_is_marked_or_the_last(
    text: str, value: float | None
) -> None:
    found = number_of(text)
    assert (found and found.value) == value


@pytest.mark.parametrize(
    "answer, expected, equal",
    [
        ("It is 72 apples.", "12 * 6 = 72\n#### 72", 1.0),
        ("0.75", "3/4", 1.0),
        ("1,000", "1000.0", 1.0),
        ("0.33333", "1/3", 0.0),  # off by 1e-5 of it
        ("0.3333333", "1/3", 1.0),
        ("72.001", "72", 0.0),
        ("-5", "5", 0.0),
        ("0", "-0", 1.0),
        ("1e-9", "0", 0.0),
        ("12%", "12", 1.0),
        ("12%", "0.12", 1.0),
        ("0.12", r"\boxed{12\%}", 1.0),
        ("12%", "12 %", 1.0),
        ("12%", "0.12%", 0.0),
        ("12", "0.12", 0.0),
        ("none", "72", 0.0),
        ("72", "none", 0.0),
        ("none", "none", 0.0),
    ],
)
def test_numbers_are_equal_within_a_millionth_however_they_are_written(
    answer: str, expected: str, equal: float
) -> None:
    assert numeric(answer, expected) == equal


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_prints_is_read_as_it_is(number: float) -> None:
    assert numeric(f"that is {number}", repr(number)) == 1.0
    found = number_of(f"{number:,}" if abs(number) < 1e15 else str(number))
    assert found is not None and found.value == pytest.approx(number)


@given(st.text(), st.text())
def test_no_text_breaks_a_metric(answer: str, expected: str) -> None:
    for metric in answer_metrics(EvaluateConfig(answers=SIMPLE)).values():
        assert 0 <= metric(answer, expected) <= 1
        assert metric(answer, expected) == metric(answer, expected)


SIMPLE: tuple[AnswerMetric, ...] = (
    "exact_match",
    "normalized_match",
    "token_f1",
    "rouge_l",
    "numeric",
    "json_valid",
)


@pytest.mark.parametrize(
    "answer, valid",
    [
        ('{"a": [1, null]}', 1.0),
        (" [] \n", 1.0),
        ("null", 1.0),
        ("42", 1.0),
        ('Here it is:\n```json\n{"a": 1}\n```\nDone.', 1.0),
        ("```\n[1]\n```", 1.0),
        ("```json\r\n[1]\r\n```", 1.0),
        ("```json\n[1]\n```\n```json\n[1,\n```", 0.0),  # the last block is the answer
        ("```python\n[1]\n```", 0.0),
        ('{"a": 1', 0.0),
        ("{'a': 1}", 0.0),
        ('{"a": NaN}', 0.0),
        ("[Infinity]", 0.0),
        ('so {"a": 1}', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_an_answer_is_json_as_a_whole_or_in_its_last_fenced_block(
    answer: str, valid: float
) -> None:
    assert json_valid(answer, "anything") == valid


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/years"}},
    "$defs": {"years": {"type": "integer", "minimum": 0}},
}


def configured(name: AnswerMetric, **options: Any) -> Any:
    return answer_metrics(EvaluateConfig(answers=(name,), **options))[name]


def schema_file(folder: Path, text: str) -> str:
    (folder / "schema.json").write_text(text, encoding="utf-8")
    return str(folder / "schema.json")


@pytest.mark.parametrize(
    "answer, fits",
    [
        ('{"name": "Ann", "age": 7}', 1.0),
        ('```json\n{"name": "Ann", "age": 7}\n```', 1.0),
        ('{"name": "Ann", "age": -7}', 0.0),
        ('{"name": "Ann"}', 0.0),
        ("null", 0.0),
        ('{"name": "Ann", "age": 7', 0.0),
    ],
)
def test_an_answer_fits_a_schema_or_not(tmp_path: Path, answer: str, fits: float) -> None:
    metric = configured("json_schema", json_schema=schema_file(tmp_path, json.dumps(SCHEMA)))
    assert metric(answer, "") == fits


@pytest.mark.parametrize(
    "text, fault",
    [
        ("{", "is not JSON"),
        ('{"type": "objekt"}', "is no JSON schema: at $.type, 'objekt'"),
        ("[]", "is no JSON schema"),
        ('{"$ref": "#/$defs/lost"}', "refers to '/$defs/lost', which is not in the file"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_anything_is_measured(
    tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configured("json_schema", json_schema=schema_file(tmp_path, text))
    assert fault in str(caught.value) and "schema.json" in str(caught.value)


def test_a_schema_downloads_nothing(tmp_path: Path) -> None:
    asked = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.json"
        with pytest.raises(ConfigError, match=f"refers to '{url}', which is not in the file"):
            configured("json_schema", json_schema=schema_file(tmp_path, f'{{"$ref": "{url}"}}'))
        server.shutdown()
    assert asked == []


def test_a_schema_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"json_schema: .*gone\.json cannot be read"):
        configured("json_schema", json_schema=str(tmp_path / "gone.json"))


@pytest.mark.parametrize(
    "pattern, answer, expected, right",
    [
        (r"\d{4}-\d\d-\d\d", "on 2024-05-06", "anything", 1.0),
        (r"\d{4}-\d\d-\d\d", "on May 6", "2024-05-06", 0.0),
        (r"answer is ([A-D])", "The answer is B.", "answer is B", 1.0),
        (r"answer is ([A-D])", "The answer is B.", "answer is C", 0.0),
        (r"answer is ([A-D])", "B", "answer is B", 0.0),
        (r"answer is ([A-D])", "The answer is B.", " B\n", 1.0),  # the whole of what is expected
        (r"answer is ([A-D])", "answer is A? No, answer is B", "B", 1.0),  # the last counts
        (r"(\w+)=(\d+)", "a=1 b=2", "b=2", 1.0),
        (r"(\w+)=(\d+)", "a=1 b=3", "b=2", 0.0),
        (r"(\w+)=(\d+)", "b=2", "b", 0.0),
        (r"(?i)yes", "YES!", "", 1.0),
    ],
)
def test_a_pattern_is_found_and_its_group_is_what_was_expected(
    pattern: str, answer: str, expected: str, right: float
) -> None:
    assert configured("regex", regex=pattern)(answer, expected) == right


def module_with(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_a_function_of_the_users_own_is_called_with_answer_and_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def longer(answer, expected):\n    return len(answer) - len(expected)\n"
    module_with(tmp_path, monkeypatch, "own_metrics", code)
    metric = configured("function", function="own_metrics:longer")
    assert metric("four", "it") == 2.0 and isinstance(metric("four", "it"), float)


@pytest.mark.parametrize("value", ["None", "'1'", "float('nan')", "float('inf')", "[1]", "1j"])
def test_a_function_that_gives_no_finite_number_stops_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    name = f"giving_{abs(hash(value))}"
    module_with(tmp_path, monkeypatch, name, f"def f(answer, expected):\n    return {value}\n")
    metric = configured("function", function=f"{name}:f")
    with pytest.raises(ConfigError, match=rf"{name}:f returned .* for the answer 'four'"):
        metric("four", "it")


def test_a_function_that_fails_is_told_with_the_answer_it_failed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def f(answer, expected):\n    return 1 / len(expected)\n"
    module_with(tmp_path, monkeypatch, "failing_metric", code)
    metric = configured("function", function="failing_metric:f")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError.*'four'"):
        metric("four", "")


@pytest.mark.parametrize(
    "name, fault",
    [
        ("json.dumps", "is not package.module:name"),
        ("json:", "is not package.module:name"),
        ("no_such_module:f", "cannot be imported .ModuleNotFoundError"),
        ("json:no_such_name", "cannot be imported .AttributeError"),
        ("json:__name__", "is no function"),
    ],
)
def test_a_function_that_is_not_there_is_refused_at_the_start(name: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluate.function: .*{fault}"):
        configured("function", function=name)


def test_the_metrics_are_those_asked_for_in_that_order() -> None:
    found = answer_metrics(EvaluateConfig(answers=("rouge_l", "exact_match")))
    assert list(found) == ["rouge_l", "exact_match"]
    assert found["exact_match"]("a b", "a c") == 0.0 and found["rouge_l"]("a b", "a c") == 0.5
    assert answer_metrics(EvaluateConfig(answers=())) == {}


def test_all_options_that_are_missing_or_wrong_are_told_at_once() -> None:
    config = EvaluateConfig(
        answers=("exact_match", "json_schema", "regex", "function"), regex="(", function="x"
    )
    with pytest.raises(ConfigError) as caught:
        answer_metrics(config)
    schema, regex, function = caught.value.faults
    assert schema == (
        "evaluate.answers: 'json_schema' needs a file with the schema. Set evaluate.json_schema."
    )
    assert "evaluate.regex: '(' is no regular expression" in regex
    assert "evaluate.function: 'x' is not package.module:name" in function


def test_an_option_that_no_metric_reads_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        answer_metrics(EvaluateConfig(answers=("regex",), regex="a", function="m:f"))
    assert [record.getMessage() for record in caplog.records] == [
        "evaluate.function has no effect: evaluate.answers does not name function."
    ]
