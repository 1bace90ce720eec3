"""Batches as the columns of a data set, and those columns as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from ytrainer_core.data.packing import IGNORED
from ytrainer_core.preference.batches import mismatched
from ytrainer_core.preference.rows import PreferenceRow

if TYPE_CHECKING:
    import datasets

MISMATCHED = "KL_"
"""Prefix of what belongs to a prompt with another row's answer, as TRL calls it."""


@dataclass(frozen=True)
class Batched:
    """rows: prompt_ids, completion_ids, label (and KL_completion_ids), batch after batch.
    sizes: rows of each batch."""

    rows: datasets.Dataset
    sizes: list[int]


def batched(
    rows: Sequence[PreferenceRow], batches: Sequence[Sequence[int]], *, kl: bool
) -> Batched:
    """The rows in the order of their batches. kl: with the answers they are compared with."""
    import datasets as hf

    order = [i for batch in batches for i in batch]
    columns: dict[str, list[Any]] = {
        "prompt_ids": [rows[i].prompt_ids for i in order],
        "completion_ids": [rows[i].completion_ids for i in order],
        "label": [rows[i].label for i in order],
    }
    if kl:
        others = [i for batch in batches for i in mismatched(batch)]
        columns[f"{MISMATCHED}completion_ids"] = [rows[i].completion_ids for i in others]
    return Batched(hf.Dataset.from_dict(columns), [len(batch) for batch in batches])


class FixedBatches(Sampler[list[int]]):
    """Always the same batches, one after the other, of sizes that may differ."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[int]]:
        begin = 0
        for size in self._sizes:
            yield list(range(begin, begin + size))
            begin += size


class PreferenceCollator:
    """Rows of `Batched` -> tensors, padded on the right.

    For each prefix "" and KL_: input_ids, attention_mask, labels (IGNORED outside of the answer)
    [rows, tokens]; where the reference is known, ref_logps [rows, tokens - 1] in nats, 0 outside.
    label: [rows]. real_tokens, target_tokens: numbers without padding.
    """

    def __init__(self, pad_token_id: int, max_length: int) -> None:
        self._pad, self._max_length = pad_token_id, max_length

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"label": torch.tensor([row["label"] for row in rows])}
        batch |= self._sequences(rows, "")
        if f"{MISMATCHED}completion_ids" in rows[0]:
            batch |= self._sequences(rows, MISMATCHED)
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        batch["real_tokens"] = sum(int(mask.sum()) for mask in masks)
        batch["target_tokens"] = int((batch["labels"] != IGNORED).sum())
        return batch

    def _sequences(self, rows: Sequence[dict[str, Any]], prefix: str) -> dict[str, Tensor]:
        prompts = [row["prompt_ids"] for row in rows]
        answers = [
            row[f"{prefix}completion_ids"][: self._max_length - len(row["prompt_ids"])]
            for row in rows
        ]
        ids = [torch.tensor([*p, *a]) for p, a in zip(prompts, answers, strict=True)]
        labels = [
            torch.tensor([*[IGNORED] * len(p), *a]) for p, a in zip(prompts, answers, strict=True)
        ]
        found = {
            f"{prefix}input_ids": _padded(ids, self._pad),
            f"{prefix}attention_mask": _padded([torch.ones_like(row) for row in ids], 0),
            f"{prefix}labels": _padded(labels, IGNORED),
        }
        if f"{prefix}ref_logps" in rows[0]:
            known = [
                torch.tensor([*[0.0] * (len(p) - 1), *row[f"{prefix}ref_logps"]])
                for p, row in zip(prompts, rows, strict=True)
            ]
            found[f"{prefix}ref_logps"] = _padded(known, 0.0)
        return found


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
