"""What the models are asked, and the digest that tells whether it was the same."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ytrainer_core import __version__
from ytrainer_core.config import DataConfig, EvaluateConfig, EvaluateStageConfig
from ytrainer_core.data.corpus import BATCH_ROWS, Corpus, SplitDigest, row_schema
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import DataError
from ytrainer_core.evaluation.choices import read_choices
from ytrainer_core.evaluation.measure import Exam, Question
from ytrainer_core.evaluation.preferences import Preferences
from ytrainer_core.evaluation.tasks import answer_metrics
from ytrainer_core.files import sha256_file, sha256_folder, sha256_json
from ytrainer_core.preference.rows import preference_rows, tells_preference

_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "merges.txt", "*.model")

_READING = ("max_length", "on_too_long", "train_on", "system_prompt")
"""Fields of the data section that decide what held-out rows become for a model."""


def exam_of(config: EvaluateStageConfig, corpus: Corpus, tokenizer: Any) -> Exam:
    """Rows to reach and general rows, tokenized and as prompts.

    Raises DataError where nothing is held out, ConfigError for options of metrics that are wrong.
    """
    held_out = rows_to_reach(corpus)
    if not len(held_out):
        raise DataError(
            "there is no held-out row to evaluate on. Set data.validation, or "
            "data.validation_fraction above 0."
        )
    whole = config.data.model_copy(update={"on_too_long": "truncate"})
    most, most_general = config.evaluate.max_generate_rows, config.evaluate.max_general_rows
    return Exam(
        target=tokenize_dataset(held_out, tokenizer, config.data),
        general=tokenize_dataset(corpus.general, tokenizer, whole),
        questions=questions(held_out, tokenizer, config.data, most),
        general_questions=questions(corpus.general, tokenizer, config.data, most_general),
        choices=read_choices(config.evaluate.choices) if config.evaluate.choices else [],
        answer_metrics=answer_metrics(config.evaluate),
        max_length=config.data.max_length,
        config=config.evaluate,
        seed=config.seed,
        system_prompt=config.data.system_prompt,
        preferences=preferences(corpus.validation, tokenizer, whole),
    )


def rows_to_reach(corpus: Corpus) -> Any:
    """The held-out rows but those whose answer was disliked, which no model should give."""
    rows = corpus.validation
    return rows.select([i for i, label in enumerate(rows["label"]) if label is not False])


def preferences(rows: Any, tokenizer: Any, data: DataConfig) -> Preferences | None:
    """The answers that were liked or disliked; None where not both kinds are there."""
    telling = rows.select([i for i, row in enumerate(rows) if tells_preference(row)])
    paired = bool(len(telling)) and all(telling["rejected"])
    found = preference_rows(telling, tokenizer, data, pairs=paired).rows
    if len({row.label for row in found}) < 2:
        return None
    liked = np.array([row.label for row in found])
    return Preferences([row.trained() for row in found], liked, paired)


def questions(rows: Any, tokenizer: Any, data: DataConfig, most: int) -> list[Question]:
    """The first `most` conversations as prompts: everything up to the last assistant turn."""
    found: list[Question] = []
    too_long = 0
    for row in rows:
        if len(found) == most:
            break
        messages = _with_system(row["messages"], data)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            continue
        text = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= data.max_length:
            too_long += 1
            continue
        found.append(Question(ids, messages[-2]["content"], messages[-1]["content"], text))
    if too_long:
        print(
            f"note: {too_long} held-out prompts fill data.max_length={data.max_length} and are not "
            "asked.",
            file=sys.stderr,
        )
    return found


def evaluation_digest(
    config: EvaluateStageConfig, corpus: Corpus, exam: Exam, tokenizer: Any, folder: Path
) -> str:
    """Identity of what is asked: models measured under one digest can be compared.

    Held-out rows count by what they say, so that a corpus that grew elsewhere leaves it as it
    is. folder: where the tokenizer's files lie.
    """
    return sha256_json(
        [
            __version__,
            [_content(rows) for rows in (corpus.validation, corpus.general)],
            [[row.question, row.choices, row.answer] for row in exam.choices],
            [tokenizer.chat_template, _digests(folder, _TOKENIZER_FILES)],
            config.evaluate.model_dump(mode="json", exclude={"champion"}),
            _read_files(config.evaluate),
            config.data.model_dump(mode="json", include=set(_READING)),
            config.seed,
        ]
    )


def _with_system(
    messages: Sequence[Mapping[str, Any]], data: DataConfig
) -> list[Mapping[str, Any]]:
    if data.system_prompt and messages and messages[0]["role"] != "system":
        return [{"role": "system", "content": data.system_prompt}, *messages]
    return list(messages)


def _content(rows: Any) -> str:
    digest = SplitDigest(row_schema().names)
    for table in rows.with_format("arrow").iter(BATCH_ROWS):
        digest.update(table)
    return digest.content


def _digests(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    return {file.name: sha256_file(file) for file in sorted(files)}


def _read_files(config: EvaluateConfig) -> list[Any]:
    """Digests of the files that metrics are made from, beside the rows."""
    found: list[Any] = []
    if config.json_schema:
        found.append(sha256_file(Path(config.json_schema).expanduser()))
    if config.lm_eval_folder:
        found.append(sha256_folder(Path(config.lm_eval_folder).expanduser()))
    if config.function:
        module = sys.modules.get(config.function.partition(":")[0])
        file = getattr(module, "__file__", None)
        found.append(sha256_file(Path(file)) if file else "")
    return found
