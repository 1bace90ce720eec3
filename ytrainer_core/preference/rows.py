"""A corpus becomes prompts with answers that were liked or not, and nothing is left out unsaid.

The label of a conversation is about its last answer: that is the completion, and all before it the
prompt. A pair becomes two rows, the chosen answer before the rejected one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import DataConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.data.tokenize import Messages, Tokenized, tokenize_configured, truncate
from ytrainer_core.errors import DataError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

LEAST_SHARE = 0.05
"""Share of liked or of disliked rows below which a few answers carry half of the training."""

_BATCH_ROWS = 256
_NAMED_ORIGINS = 5

_ANSWERED_TO = ("user", "tool", "system")
"""Roles that an answer may follow."""


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """One answer with its prompt, in tokens; label says whether it was liked."""

    origin: str
    prompt_ids: list[int]
    completion_ids: list[int]
    label: bool

    def trained(self) -> dict[str, list[int]]:
        """input_ids and labels of a row whose answer alone is a target."""
        return {
            "input_ids": self.prompt_ids + self.completion_ids,
            "labels": [IGNORED] * len(self.prompt_ids) + self.completion_ids,
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """rows: what is trained; of pairs, each liked row stands before its disliked one. cut: origins
    of the rows that had no token of their answer left within data.max_length, and are not."""

    rows: list[PreferenceRow]
    cut: list[str]

    @property
    def liked(self) -> int:
        """Number of rows whose answer was liked."""
        return sum(row.label for row in self.rows)

    @property
    def disliked(self) -> int:
        """Number of rows whose answer was not."""
        return len(self.rows) - self.liked


def preference_rows(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    pairs: bool,
) -> Rows:
    """The rows of a split, tokenized, in its order.

    pairs: only rows with two answers will do (DPO); one of them that is cut takes both out.
    Raises DataError for rows that say nothing about what is liked, and for rows longer than
    data.max_length unless on_too_long is truncate.
    """
    config = config.model_copy(update={"train_on": "last_turn"})
    rows: list[PreferenceRow] = []
    cut: list[str] = []
    for batch in dataset.iter(_BATCH_ROWS):
        records = [
            dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]
        _require_preferences(records, pairs=pairs)
        chats = [answer for record in records for answer in _answers(record)]
        tokens = tokenize_configured(
            [(messages, "") for _, messages, _ in chats], tokenizer, config
        )
        found = [
            _row(origin, one, label, config)
            for (origin, _, label), one in zip(chats, tokens, strict=True)
        ]
        origins = [origin for origin, _, _ in chats]
        lost = {origin for origin, row in zip(origins, found, strict=True) if row is None}
        cut += sorted(lost)
        rows += [row for row in found if row and not (pairs and row.origin in lost)]
    return Rows(rows, cut)


def tells_preference(record: Mapping[str, Any]) -> bool:
    """Whether `preference_rows` can read a record: it has a label, or two answers of one turn."""
    if record["rejected"]:
        return _one_turn_each(record["messages"][:-1], record["rejected"])
    return record["label"] is not None


def require_both(rows: Rows, *, pairs: bool) -> list[str]:
    """Refuse rows that cannot teach a preference; return what else should be known about them.

    Raises DataError where all answers are liked, or none, or fewer than two rows are left.
    """
    told = []
    if rows.cut:
        told.append(
            f"{len(rows.cut)} rows are not trained, since their prompt fills data.max_length "
            f"({_first(rows.cut)}). Raise it, or shorten them"
        )
    liked, disliked = rows.liked, rows.disliked
    if not liked or not disliked:
        missing = "liked" if not liked else "disliked"
        raise DataError(
            f"data.train: none of {len(rows.rows)} answers is {missing}, so no preference can be "
            'learned. Add rows with "label": ' + ("true" if not liked else "false") + "; answers "
            "that are all good are for `ytrainer sft`.",
            *told,
        )
    if pairs:
        return told
    share = min(liked, disliked) / (liked + disliked)
    if share < LEAST_SHARE:
        told.append(
            f"{liked} answers are liked and {disliked} disliked ({share:.1%} of one kind), so a "
            "few rows carry half of the training. Add rows of the rare kind"
        )
    return told


def _require_preferences(records: Sequence[Mapping[str, Any]], *, pairs: bool) -> None:
    def fits(record: Mapping[str, Any]) -> bool:
        return bool(record["rejected"]) or (not pairs and record["label"] is not None)

    bad = [record["origin"] for record in records if not fits(record)]
    if bad:
        needs = "a rejected answer" if pairs else "a label"
        purpose = "preference" if pairs else "kto"
        raise DataError(
            f"{_first(bad)}: has no {needs.removeprefix('a ')}. Validate the corpus with "
            f"data.purpose={purpose}, so that such rows are quarantined, or give them {needs}."
        )


def _answers(record: Mapping[str, Any]) -> Iterator[tuple[str, Messages, bool]]:
    """(origin, messages that end with the answer, whether it is liked): one, or a pair's two."""
    messages = [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    if not record["rejected"]:
        yield record["origin"], messages, bool(record["label"])
        return
    prompt, rejected = messages[:-1], record["rejected"]
    if not _one_turn_each(prompt, rejected):
        raise DataError(
            f"{record['origin']}: its chosen or rejected answer has several turns, and only one "
            "answer can be compared with one. Put the common turns into the prompt."
        )
    yield record["origin"], messages, True
    yield (
        record["origin"],
        [*prompt, {"role": "assistant", "content": rejected[0]["content"]}],
        False,
    )


def _one_turn_each(prompt: Messages, rejected: Sequence[Any]) -> bool:
    return len(rejected) == 1 and bool(prompt) and prompt[-1]["role"] in _ANSWERED_TO


def _row(origin: str, tokens: Tokenized, label: bool, config: DataConfig) -> PreferenceRow | None:
    """Prompt and completion in tokens; None where nothing of the completion is left."""
    if len(tokens.input_ids) > config.max_length:
        if config.on_too_long != "truncate":
            raise DataError(
                f"{origin}: is {len(tokens.input_ids)} tokens long, more than data.max_length="
                f"{config.max_length}. Raise it, or set data.on_too_long=truncate, or validate the "
                "corpus with this model's tokenizer, so that such rows are quarantined."
            )
        tokens = truncate(tokens, config.max_length)
    if not tokens.trained:
        return None
    begin, end = tokens.trained[-1]
    return PreferenceRow(origin, tokens.input_ids[:begin], tokens.input_ids[begin:end], label)


def _first(origins: Iterable[str]) -> str:
    listed = list(origins)
    more = ", …" if len(listed) > _NAMED_ORIGINS else ""
    return ", ".join(listed[:_NAMED_ORIGINS]) + more
