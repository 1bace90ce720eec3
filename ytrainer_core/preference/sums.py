"""What is told of a preference training: sums over rows, and the means that are logged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Sums:
    """Metrics by name, summed up without waiting for the device until somebody asks."""

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._totals: dict[str, list[Any]] = defaultdict(lambda: [0.0, 0])

    def add(self, found: Mapping[str, Any], *, loss: bool = False) -> None:
        """Add a batch: label, ratio and logps of its rows, its kl; with `loss` that of its rows."""
        label, rewards, logps = found["label"], self._beta * found["ratio"], found["logps"]
        measures: dict[str, Tensor] = {
            "rewards/chosen": rewards[label],
            "rewards/rejected": rewards[~label],
            "logps/chosen": logps[label],
            "logps/rejected": logps[~label],
            "kl": found["kl"],
        }
        for name, values in (measures | ({"loss": found["loss"]} if loss else {})).items():
            total = self._totals[name]
            total[0] += values.sum()
            total[1] += values.numel()

    def means(self) -> dict[str, float]:
        """Means of what was seen at all, and the margin between the rewards of both kinds."""
        means = {name: float(total) / n for name, (total, n) in self._totals.items() if n}
        if "rewards/chosen" in means and "rewards/rejected" in means:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means
