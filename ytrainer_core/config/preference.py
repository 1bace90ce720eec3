"""Knobs of preference tuning: the loss, its weights, its reference, its batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ytrainer_core.config.base import NonNegative, Positive, Section


class PreferenceConfig(Section):
    """What is learned from liked and disliked answers."""

    loss: Literal["kto", "apo_zero_unpaired", "dpo"] = "kto"
    """Loss on the log-ratio of policy and reference: kto (arXiv 2402.01306) and apo_zero_unpaired
    (arXiv 2408.06266) take rows with a label, dpo (arXiv 2305.18290) pairs."""

    beta: Positive = 0.1
    """Scale of the implied reward, per nat of log-ratio; larger keeps closer to the reference."""

    desirable_weight: NonNegative = 0.0
    """Weight on the loss of liked answers; 0 chooses it by the counts, so that both kinds have
    about the same say."""

    undesirable_weight: NonNegative = 0.0
    """Weight on the loss of disliked answers; 0 chooses it by the counts, as above."""

    reference: Literal["auto", "adapter_off", "precomputed"] = "auto"
    """Where the reference's log-probabilities come from: the model with its adapter switched off,
    or one pass of the untrained model beforehand; auto switches off an adapter that is new."""

    batch_size: Annotated[int, Field(ge=2)] = 8
    """Rows per forward pass (dpo: pairs); kto compares each prompt with an answer of another row of
    the batch, so at least 2, better 4 or more."""

    token_weighting: Literal["none", "nlirg"] = "none"
    """Weights on the token terms of the log-ratio: none, or those of NLIRG by the policy's loss."""
