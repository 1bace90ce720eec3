"""Token weights that are made once, before the training, from the base model's losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ytrainer_core.objectives import OBJECTIVES, base_weights
from ytrainer_core.scoring.signals import token_signals
from ytrainer_core.training.batches import TokenRow
from ytrainer_core.training.job import TrainJob


def with_base_weights(model: Any, rows: Sequence[TokenRow], job: TrainJob) -> Sequence[TokenRow]:
    """Rows with the token weights that the objective makes of the base model's losses, if any."""
    if not OBJECTIVES[job.objective.name].base_nll:
        return rows
    limit = job.train.pack_length or job.data.max_length
    signals = token_signals(model, rows, max_length=limit, title="base model's losses")
    weights = base_weights([row.nll for row in signals], job.objective)
    return _Weighted(rows, [s.positions for s in signals], weights)


class _Weighted(Sequence[TokenRow]):
    """Rows with a weight a token; targets without a weight of their own have 1."""

    def __init__(self, rows: Sequence[TokenRow], positions: Any, weights: Any) -> None:
        self._rows, self._positions, self._weights = rows, positions, weights

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        weights = np.asarray(row.get("weights", np.ones(len(row["labels"]))), dtype=np.float32)
        weights = weights.copy()
        weights[self._positions[index]] *= self._weights[index]
        labels, input_ids = np.asarray(row["labels"]), np.asarray(row["input_ids"])
        return {"input_ids": input_ids, "labels": labels, "weights": weights}
