"""Token objectives: how much each target token counts. OBJECTIVES names them."""

from collections.abc import Callable

from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives import cross_entropy, nlirg

WeighTokens = Callable[[Tensor, ObjectiveConfig], Tensor]
"""(nll [tokens] in nats, detached; config) -> weights [tokens], detached."""

OBJECTIVES: dict[str, WeighTokens] = {
    "cross_entropy": cross_entropy.weigh,
    "nlirg": nlirg.weigh,
}
