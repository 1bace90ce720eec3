"""Knobs of the corpus: where it lies, which rows count, how long they may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ytrainer_core.config.base import Section, Strings

RowFormat = Literal[
    "auto",
    "alpaca",
    "messages",
    "sharegpt",
    "prompt_completion",
    "question_answer",
    "text",
]


class DataConfig(Section):
    """The corpus and how its rows are read."""

    train: Strings = ()
    """Training files (.json, .jsonl, .txt), comma-separated; also s3://bucket/key."""

    validation: Strings = ()
    """Held-out files of the target domain; empty takes `validation_fraction` of the corpus."""

    general: Strings = ()
    """Held-out general text; its loss before and after tells what the model forgot."""

    replay: Strings = ()
    """Files of an earlier or a general corpus, trained along so that less is forgotten."""

    replay_ratio: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Replayed rows per row of the corpus, drawn by the seed; where there are fewer, all."""

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training rows held out where `validation` is empty; at most 1,000 rows."""

    format: RowFormat = "auto"
    """Row shape; auto detects it per file."""

    encoding: str = "utf-8"
    """Text encoding of the files; a byte order mark is skipped."""

    max_rows: Annotated[int, Field(ge=0)] = 0
    """Rows read at most from each of train, validation and general; 0 reads all."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest row in tokens, the chat template included."""

    on_too_long: Literal["drop", "truncate"] = "drop"
    """What happens to longer rows: quarantined, or cut at `max_length`."""

    on_invalid: Literal["drop", "fail"] = "drop"
    """What happens to a bad row: quarantined with its reason, or the stage stops."""

    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of rows that may be quarantined before the stage fails."""

    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which assistant turns carry labels in a conversation."""

    system_prompt: str = ""
    """System message put before conversations that have none; empty adds none."""
