"""Multiple choice by log-likelihood: which of the given answers a model finds likeliest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ytrainer_core.data.containers import rows_of
from ytrainer_core.data.rows import UNPARSED, RawRow
from ytrainer_core.data.sources import find_sources
from ytrainer_core.data.token_bytes import encode_spans
from ytrainer_core.data.tokenize import Tokenized, tokenize_rows
from ytrainer_core.errors import DataError
from ytrainer_core.evaluation.intervals import RowValues, row_means
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import Row
from ytrainer_core.scoring.signals import losses_of

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_FAULTS = 20
"""Faults of one reading that are told; the others are counted."""

_SHAPE = 'Write {"question": "...", "choices": ["...", "..."], "answer": 0} there'


@dataclass(frozen=True)
class ChoiceRow:
    """A question, what may be answered, which of these is right (from 0), and file:line."""

    question: str
    choices: tuple[str, ...]
    answer: int
    origin: str


def read_choices(files: Sequence[str]) -> list[ChoiceRow]:
    """The questions of all files, JSON Lines or another format that data.train may have.

    files: paths, globs, folders, s3:// addresses. Of each row `answer` is the number of the right
    choice from 0, its letter, or its text. Raises one DataError with every fault at its file:line.
    """
    rows: list[ChoiceRow] = []
    faults: list[str] = []
    for source in find_sources(files):
        before = len(rows) + len(faults)
        for raw in rows_of(source.name, source.path, "utf-8"):
            origin = f"{source.name}:{raw.place}"
            try:
                rows.append(_choice_row(_fields(raw), origin))
            except ValueError as error:
                faults.append(f"{origin}: {error}. {_SHAPE}.")
        if len(rows) + len(faults) == before:
            faults.append(f"{source.name}: holds no question. Fill it, or leave it out.")
    if len(faults) > _MOST_FAULTS:
        more = f"{len(faults) - _MOST_FAULTS} more rows of evaluate.choices are wrong."
        faults = [*faults[:_MOST_FAULTS], more]
    if faults:
        raise DataError(*faults)
    return rows


def choice_accuracy(
    model: Any,
    tokenizer: Any,
    rows: Sequence[ChoiceRow],
    *,
    batch_tokens: int,
    max_length: int,
    system_prompt: str = "",
) -> dict[str, RowValues]:
    """Share of questions whose right choice the model finds likeliest, by metric.

    choice_accuracy: by the sum of the choice's token log-probabilities;
    choice_accuracy_normalized: by that sum per byte of the choice (acc_norm of lm-evaluation-
    harness), so that long choices are at no disadvantage. Choices that are equally likely share
    the point; where the model is broken the value is nan.
    With a chat template a choice is the assistant's answer, the token that ends it included;
    without one it follows the question after a blank. Of rows over max_length tokens (0: none) the
    last are read. Raises DataError where a choice has no token, or the template refuses a row.
    """
    encoded = _encoded(tokenizer, rows, system_prompt, max_length)
    with Progress("multiple choice", len(encoded)) as progress:
        losses = losses_of(
            model, encoded, max_length=0, batch_tokens=batch_tokens, progress=progress
        )
    likelihoods = iter([-float(loss.sum(dtype=np.float64)) for loss in losses])
    plain, normalized = [], []
    for row in rows:
        own = np.array([next(likelihoods) for _ in row.choices])
        plain.append(_point(own, row.answer))
        normalized.append(_point(own / [len(c.encode()) for c in row.choices], row.answer))
    return {
        "choice_accuracy": row_means(plain),
        "choice_accuracy_normalized": row_means(normalized),
    }


def _point(likelihoods: Any, answer: int) -> float:
    if np.isnan(likelihoods).any():
        return float("nan")
    best = likelihoods == likelihoods.max()
    return float(best[answer] / best.sum())


# --- questions as tokens -------------------------------------------------------------------------


def _encoded(
    tokenizer: Any, rows: Sequence[ChoiceRow], system_prompt: str, max_length: int
) -> list[Row]:
    """Every choice of every row; the targets are the tokens of the choice."""
    pairs = [(row.question, choice) for row in rows for choice in row.choices]
    if getattr(tokenizer, "chat_template", None):
        talks = [(_talk(*pair), "") for pair in pairs]
        found = tokenize_rows(talks, tokenizer, train_on="last_turn", system_prompt=system_prompt)
    else:
        found = _as_text(tokenizer, pairs)
    for origin, tokenized in zip(
        (row.origin for row in rows for _ in row.choices), found, strict=True
    ):
        if not tokenized.trained:
            raise DataError(
                f"{origin}: a choice has no token of its own, so it has no likelihood. Reword it."
            )
    return [_last(tokenized, max_length) for tokenized in found]


def _talk(question: str, choice: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": choice}]


def _as_text(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Tokenized]:
    """Question, blank, choice, after the token that the tokenizer begins every text with."""
    texts = [f"{question} {choice}" for question, choice in pairs]
    spans = [[(len(question), len(text))] for (question, _), text in zip(pairs, texts, strict=True)]
    begin = tokenizer("").input_ids[:1]
    start = begin if begin == [tokenizer.bos_token_id] else []
    found = []
    for ids, own in encode_spans(texts, spans, tokenizer):
        trained = [(first + len(start), end + len(start)) for first, end in own]
        found.append(Tokenized([*start, *ids], [(max(1, first), end) for first, end in trained]))
    return found


def _last(tokenized: Tokenized, max_length: int) -> Row:
    return {
        "input_ids": tokenized.input_ids[-max_length:],
        "labels": tokenized.labels[-max_length:],
    }


# --- rows of a file ------------------------------------------------------------------------------


def _fields(raw: RawRow) -> Mapping[str, Any]:
    """The fields of a row. Raises ValueError that says what is wrong."""
    if raw.error:
        raise ValueError(raw.error)
    try:
        value = json.loads(raw.raw) if raw.value is UNPARSED else raw.value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(value, Mapping):
        raise ValueError("is no object with named fields")
    return value


def _choice_row(fields: Mapping[str, Any], origin: str) -> ChoiceRow:
    """Raises ValueError that says what is wrong with the row."""
    question, choices = fields.get("question"), fields.get("choices")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("'question' is no text")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(_LETTERS):
        raise ValueError(f"'choices' is no list of 2 to {len(_LETTERS)} texts")
    if not all(_is_text(choice) and str(choice).strip() for choice in choices):
        raise ValueError("'choices' holds what is neither text nor number, or is empty")
    texts = tuple(str(choice) for choice in choices)
    if len(set(texts)) < len(texts):
        raise ValueError("'choices' holds the same text twice")
    return ChoiceRow(question, texts, _right(fields.get("answer"), texts), origin)


def _right(answer: object, choices: Sequence[str]) -> int:
    """Number of the right choice, from 0."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
        raise ValueError(f"'answer' is {answer}, but the choices are 0 to {len(choices) - 1}")
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letter = answer.strip().upper()
        if len(letter) == 1 and letter in _LETTERS[: len(choices)]:
            return _LETTERS.index(letter)
    raise ValueError(f"'answer' is {answer!r}, which is no choice's number, letter or text")


def _is_text(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
