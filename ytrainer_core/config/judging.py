"""Knobs of judgement: scoring rows, ordering them, evaluating models, the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ytrainer_core.config.base import AtLeastOne, Count, NonNegative, Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]


class ScoreConfig(Section):
    """How suspicious rows are found from the model's own signals."""

    method: Literal["anomaly", "mean_loss", "surprise"] = "mean_loss"
    """Row score: abnormal tokens, mean nll in nats, or the worst window of nll x certainty."""

    smoothing_window: AtLeastOne = 3
    """Tokens of the centred moving average over nll and entropy."""

    abnormal_z: Positive = 0.6
    """z-score beyond which a token's nll or entropy counts as high or low."""

    suspicious_entropy_z: float = -1.0
    """Entropy z-score below which a token of above-average nll is suspicious."""

    span_divergence: Positive = 1.96
    """Least peak of z(nll) - z(entropy) for a span of abnormal tokens to be kept."""

    min_tokens: AtLeastOne = 4
    """Answers shorter than this keep their score but are never flagged within-row."""

    flag_fraction: Share = 0.05
    """Share of the rows, worst first, that is flagged."""

    action: Literal["keep", "flag", "drop"] = "flag"
    """What happens to flagged rows; dropped ones are quarantined with their reason."""

    batch_tokens: AtLeastOne = 8192
    """Tokens per forward pass."""


class OrderConfig(Section):
    """In which order training sees the rows."""

    mode: Literal["none", "similarity", "filtered", "mean_loss", "entropy", "length", "random"] = (
        "none"
    )
    """Difficulty that sorts the rows, easy first; none leaves shuffling to the trainer."""

    descending: bool = False
    """Hard first."""

    filtered_min_nll: NonNegative = 3.0
    """Nats above which the mode filtered counts a token."""

    filtered_entropy_split: NonNegative = 1.0
    """Nats of entropy above which such a token counts one half."""


class EvaluateConfig(Section):
    """How base and tuned model are measured."""

    max_new_tokens: AtLeastOne = 128
    """Longest greedy answer, in tokens."""

    max_generate_rows: Count = 200
    """Held-out rows that are answered for exact match and token F1; 0 generates none."""

    batch_tokens: AtLeastOne = 8192
    """Tokens per forward pass."""


class GateConfig(Section):
    """What a tuned model must show before it may be promoted."""

    min_rows: AtLeastOne = 20
    """Held-out target rows below which no verdict is trusted."""

    min_target_loss_drop: float = 0.0
    """Nats per token by which the target loss must fall below the base's."""

    max_general_loss_rise: NonNegative = 0.10
    """Relative rise of the general loss over the base's that is tolerated."""

    min_exact_match: Share = 0.0
    """Least share of held-out rows answered exactly."""
