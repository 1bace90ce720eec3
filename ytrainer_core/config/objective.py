"""Knobs of the objective: how much each target token counts, with every constant of its formula."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from ytrainer_core.config.base import AtLeastOne, Count, NonNegative, Positive, Section, Share


class NlirgConfig(Section):
    """Constants of the NLIRG curve (facts: published values are the defaults)."""

    easy_slope: Positive = 1.7
    """Slope of the easy arm, per nat."""

    easy_midpoint: NonNegative = 1.2
    """Loss in nats at which the easy arm reaches one half."""

    arm_boundary: NonNegative = 3.0
    """Loss in nats up to which the easy arm holds; above it the hard arm."""

    hard_slope: Positive = 1.0
    """Slope of the hard arm, per nat."""

    hard_midpoint: NonNegative = 6.2
    """Loss in nats at which the hard arm has fallen to one half."""

    cutoff: Positive = 15.0
    """Loss in nats from which on a token is hopeless and weighs nothing."""

    hard_floor: NonNegative = 5e-8
    """Least weight inside the hard arm."""

    easy_floor: Literal["published", "zero"] = "published"
    """Weight of a fully known token: 0.115 as published, or shifted to zero."""

    @model_validator(mode="after")
    def _arms_in_order(self) -> Self:
        if not self.easy_midpoint <= self.arm_boundary < self.cutoff:
            raise ValueError("easy_midpoint <= arm_boundary < cutoff must hold")
        return self


class EaftConfig(Section):
    """EAFT: weight by the entropy of the most likely tokens (arXiv 2601.02151)."""

    top_tokens: AtLeastOne = 20
    """Most likely tokens whose renormalised distribution gives the entropy."""

    entropy_scale: Positive = 3.0
    """Entropy in nats at which a token counts fully."""

    power: Positive = 1.0
    """Exponent on entropy / `entropy_scale`."""


class FocalConfig(Section):
    """Focal loss: weight (1 - p) ** gamma (arXiv 1708.02002)."""

    gamma: NonNegative = 2.0
    """Exponent; 0 is plain cross-entropy."""


class TalrConfig(Section):
    """TALR: weight p ** (1 / median loss of the global batch) (arXiv 2509.20758)."""

    floor: Share = 0.01
    """Least weight of a token."""


class FlowConfig(Section):
    """FLOW: weight exp(-row loss under the base model / temperature) (arXiv 2502.02797)."""

    temperature: NonNegative = 0.0
    """Temperature in nats; 0 takes the median of the base model's row losses."""


class StmConfig(Section):
    """STM: tokens that are too unlikely under the base model are masked (arXiv 2501.14315)."""

    max_perplexity: Positive = 2.5
    """Perplexity under the base model above which a token weighs nothing."""


class AsftConfig(Section):
    """ASFT: weight p, plus a KL anchor to the base model (arXiv 2509.23753)."""

    kl_coefficient: NonNegative = 0.05
    """Factor on the divergence of the model from its base, KL(base, model), per token."""


class DistillationConfig(Section):
    """Learning from a larger model of the same vocabulary beside the corpus."""

    teacher: str = ""
    """Hub id or folder of the teacher; empty distils nothing."""

    token_loss_coefficient: Share = 0.5
    """Share of the token loss; the rest is the divergence from the teacher."""

    temperature: Positive = 1.0
    """Softens both distributions; the divergence is multiplied by its square."""


class ObjectiveConfig(Section):
    """What each target token counts."""

    name: Literal[
        "nlirg", "cross_entropy", "dft", "eaft", "focal", "talr", "flow", "stm", "asft"
    ] = "nlirg"
    """Weight on the loss of each target token."""

    normalization: Literal["tokens", "weights"] = "tokens"
    """Divide by the trained tokens of the global batch, or by the sum of their weights."""

    chunk_tokens: Count = 0
    """Tokens whose logits exist at a time; 0 chooses by vocabulary (about 64 MB of logits)."""

    backend: Literal["chunked", "liger"] = "chunked"
    """Kernel of the loss: ours, or liger-kernel's fused one (GPU, cross_entropy only)."""

    nlirg: NlirgConfig = NlirgConfig()
    eaft: EaftConfig = EaftConfig()
    focal: FocalConfig = FocalConfig()
    talr: TalrConfig = TalrConfig()
    flow: FlowConfig = FlowConfig()
    stm: StmConfig = StmConfig()
    asft: AsftConfig = AsftConfig()
    distillation: DistillationConfig = DistillationConfig()
