"""STM: tokens that are too unlikely under the base model are masked (arXiv 2501.14315)."""

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
    """0 where exp(nll) > `max_perplexity`, else 1.

    rows_nll: per row [targets], nats.
    """
    limit = np.log(config.stm.max_perplexity)  # compared in nats: exp(nll) may overflow
    return [(nll <= limit).astype(np.float32) for nll in rows_nll]
