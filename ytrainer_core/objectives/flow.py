"""FLOW: rows that the base model finds hard count less (arXiv 2502.02797)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.base import Tokens


def weigh(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weight 1: what counts was given before the training (`base_weights`)."""
    return torch.ones_like(tokens.nll)


def base_weights(
    rows_nll: Sequence[npt.NDArray[np.float32]], config: ObjectiveConfig
) -> list[npt.NDArray[np.float32]]:
    """exp(-mean nll of the row / temperature) for each of its targets.

    rows_nll: per row [targets], nats. Temperature 0 takes the median of the rows' means.
    """
    means = [float(nll.mean(dtype=np.float64)) if nll.size else 0.0 for nll in rows_nll]
    of_rows = [mean for mean, nll in zip(means, rows_nll, strict=True) if nll.size]
    median = float(np.median(of_rows)) if of_rows else 1.0
    # a corpus that the base knows by heart has median 0, and all of its rows count fully
    temperature = max(config.flow.temperature or median, float(np.finfo(np.float32).tiny))
    return [
        np.full(nll.shape, np.exp(-mean / temperature), dtype=np.float32)
        for mean, nll in zip(means, rows_nll, strict=True)
    ]
