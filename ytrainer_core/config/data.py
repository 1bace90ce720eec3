"""Knobs of the corpus: where it lies, which rows count, how they are checked, cut and mixed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ytrainer_core.config.base import (
    AtLeastOne,
    Count,
    Pairs,
    Section,
    Share,
    Strings,
    as_mapping,
)

RowFormat = Literal[
    "auto",
    "alpaca",
    "messages",
    "sharegpt",
    "prompt_completion",
    "question_answer",
    "preference",
    "prompt",
    "y_agent",
    "text",
]

Purpose = Literal["auto", "sft", "kto", "preference", "rl"]

LEAST_RATE, GREATEST_RATE = 0.01, 10.0
"""Bounds of a source's sampling rate."""


class DataConfig(Section):
    """The corpus and how its rows are read, checked and mixed.

    A source is a file (.json, .jsonl, .csv, .tsv, .parquet, .txt, .xlsx, or one of these as .gz
    or .zst), a folder of them, a glob, s3://bucket/prefix, or hub:DATASET[:CONFIG][:SPLIT]; with
    @RATE behind it, that many of its rows are taken (0.01 to 10; above 1 rows are repeated).
    """

    train: Strings = ()
    """Training sources, comma-separated: files, folders, globs, s3://bucket/prefix, hub:DATASET;
    each may end in @RATE, its sampling rate (0.01 to 10)."""

    validation: Strings = ()
    """Held-out sources of the target domain; empty takes `validation_fraction` of the corpus."""

    general: Strings = ()
    """Held-out general text; its loss before and after tells what the model forgot."""

    replay: Strings = ()
    """Sources of a general corpus, trained along so that less is forgotten."""

    replay_ratio: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Rows of `replay` per row of the corpus (0.2 is general to own as 1 to 5), drawn by the seed;
    where there are fewer, all."""

    earlier: Strings = ()
    """Sources that an earlier model was trained on; empty finds them through its card, where
    training goes on from one (model.init_from, or a model of ours in model.name_or_path)."""

    earlier_ratio: Share = 0.1
    """Rows of `earlier` replayed per row of the corpus; 0 replays none."""

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of every training source held out where `validation` is empty; a row's hash decides, so
    that it stays on its side when rows are added."""

    validation_rows: AtLeastOne = 1000
    """Rows held out at most by `validation_fraction`."""

    purpose: Purpose = "sft"
    """What the rows are for: sft needs answers to imitate or raw text, kto a label, preference a
    rejected answer, rl a prompt; auto keeps every row that any of them can use."""

    format: RowFormat = "auto"
    """Row shape of train and validation; auto detects it per file, as of all other sources."""

    columns: Pairs = ()
    """Own column names of train and validation, as field=column (prompt=Frage, response=Antwort):
    the column is read as that field of a known row shape."""

    where: Pairs = ()
    """Only training and validation rows whose columns have these values, as column=value; of a
    Y-Agent export also reviewed=yes, corrected=no and category=NAME."""

    encoding: str = "utf-8"
    """Text encoding of the files; a byte order mark is skipped."""

    max_rows: Count = 0
    """Rows read at most of each split (train, validation, general, replay, earlier); 0 reads
    all."""

    min_rows: Count = 1
    """Training rows that must be left after checks and sampling."""

    sample_by: Literal["rows", "characters"] = "rows"
    """What a sampling rate counts: rows, or characters of text."""

    join_probability: Share = 0.0
    """Probability with which a conversation is joined to the unrelated one before it, up to
    `max_length` tokens, so that long contexts are seen; every answer stays trained."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest row in tokens, the chat template included."""

    on_too_long: Literal["drop", "truncate", "split"] = "drop"
    """What happens to longer rows: quarantined, cut at `max_length`, or trained in pieces."""

    on_invalid: Literal["drop", "fail"] = "drop"
    """What happens to a bad row: quarantined with its reason, or the stage stops."""

    max_dropped: Share = 0.02
    """Share of rows that may be quarantined before the stage fails."""

    rules: Pairs = ()
    """Severity of single rules, as rule=error, rule=warning or rule=off; the validation report
    lists all rules."""

    near_duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of common word sequences (Jaccard) from which on two rows are near duplicates; MinHash
    tells which rows are compared."""

    languages: Strings = ()
    """Languages of training and validation rows, as ISO 639-1 codes (en, zh, de); empty allows
    all."""

    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which assistant turns carry labels in a conversation."""

    system_prompt: str = ""
    """System message put before conversations that have none; empty adds none."""

    workers: Count = 0
    """Processes that read, check and tokenize; 0 takes one per core for large corpora and none for
    small ones."""

    @field_validator("rules")
    @classmethod
    def _known_severities(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        found = as_mapping(pairs)
        found |= {name: "off" for name, severity in found.items() if severity == "no"}  # YAML's off
        for name, severity in found.items():
            if severity not in ("error", "warning", "off"):
                raise ValueError(f"rule '{name}' is set to '{severity}', not error, warning or off")
        return tuple(f"{name}={severity}" for name, severity in found.items())

    @model_validator(mode="after")
    def _joined_rows_are_conversations(self) -> Self:
        if self.join_probability and self.purpose not in ("auto", "sft"):
            raise ValueError(
                f"join_probability joins rows to imitate, and purpose is '{self.purpose}'. "
                "Set join_probability=0"
            )
        return self
