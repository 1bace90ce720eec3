"""What an objective is: what it may look at, and what it has to be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ytrainer_core.config import ObjectiveConfig


@dataclass(frozen=True)
class Tokens:
    """What an objective may look at, per target token; all float32 and detached.

    nll: [tokens], nats. top_entropy: [tokens], nats, of the `eaft.top_tokens` most likely
    tokens, renormalised. median_nll: scalar, nats, over the global batch. given: [tokens],
    weights made before the training (flow, stm), or the corpus' own.
    """

    nll: Tensor
    top_entropy: Tensor | None = None
    median_nll: Tensor | None = None
    given: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """How a token is weighed, and what has to be known for it.

    weigh: (tokens, config) -> weights [tokens], without `given`, which multiplies them.
    top_entropy, batch_median: fills the field of Tokens of that meaning. base_nll: weights are
    made once, before the training, from the base model's losses (`base_weights`).
    reference: needs the base model's distribution at every target.
    """

    weigh: Callable[[Tokens, ObjectiveConfig], Tensor]
    top_entropy: bool = False
    batch_median: bool = False
    base_nll: bool = False
    reference: bool = False
