"""Token objectives: how much each target token counts. OBJECTIVES names them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives import (
    asft,
    cross_entropy,
    dft,
    eaft,
    flow,
    focal,
    nlirg,
    stm,
    talr,
)
from ytrainer_core.objectives.base import Objective, Tokens

__all__ = ["OBJECTIVES", "Objective", "Tokens", "base_weights", "token_weights"]

OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": Objective(cross_entropy.weigh),
    "nlirg": Objective(nlirg.weigh),
    "dft": Objective(dft.weigh),
    "eaft": Objective(eaft.weigh, top_entropy=True),
    "focal": Objective(focal.weigh),
    "talr": Objective(talr.weigh, batch_median=True),
    "flow": Objective(flow.weigh, base_nll=True),
    "stm": Objective(stm.weigh, base_nll=True),
    "asft": Objective(asft.weigh, reference=True),
}


def token_weights(tokens: Tokens, config: ObjectiveConfig) -> Tensor:
    """Weights [tokens] of the configured objective, times those given beforehand."""
    weights = OBJECTIVES[config.name].weigh(tokens, config)
    return weights if tokens.given is None else weights * tokens.given


def base_weights(
    rows_nll: Sequence[npt.NDArray[np.float32]], config: ObjectiveConfig
) -> list[npt.NDArray[np.float32]]:
    """Weights of every row's targets, made once from the base model's losses.

    rows_nll: per row [targets], nats, by the model as it is before the training; a row may
    have none. Raises ValueError for an objective that does not look at the base model.
    """
    makers = {"flow": flow.base_weights, "stm": stm.base_weights}
    if config.name not in makers:
        raise ValueError(f"{config.name} weighs by the model in training, not by its base")
    return makers[config.name](rows_nll, config)
