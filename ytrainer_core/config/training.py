"""Knobs of training: the model, the objective, the optimizer, the loop."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ytrainer_core.config.base import Section, Strings

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class ModelConfig(Section):
    """The base model."""

    name_or_path: str = "demo:base"
    """Hub id or folder of the base model; demo:base is the small one that the demo makes."""

    revision: str = ""
    """Branch, tag or commit of a hub model; empty takes its default branch."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the computation; auto is bfloat16 on a GPU that has it, else float32."""

    attn_implementation: str = "sdpa"
    """Attention kernel as transformers names it."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""


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


class ObjectiveConfig(Section):
    """What each target token counts."""

    name: Literal["nlirg", "cross_entropy"] = "nlirg"
    """Weight on the loss of each target token."""

    normalization: Literal["tokens", "weights"] = "tokens"
    """Divide by the trained tokens of the global batch, or by the sum of their weights."""

    chunk_tokens: Count = 0
    """Tokens whose logits exist at a time; 0 chooses by vocabulary (about 64 MB of logits)."""

    nlirg: NlirgConfig = NlirgConfig()


class OptimConfig(Section):
    """AdamW and its schedule."""

    learning_rate: Positive = 2e-4
    """Peak learning rate."""

    optimizer: str = "adamw_torch_fused"
    """Optimizer as transformers names it."""

    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""

    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""

    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""

    adam_epsilon: Positive = 1e-8
    """Term that keeps the division finite."""

    max_grad_norm: NonNegative = 1.0
    """Gradient norm above which gradients are scaled down; 0 never scales."""

    lr_scheduler: Literal["linear", "constant", "cosine", "polynomial"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the optimizer steps spent rising to the peak; `warmup_steps` overrides it."""

    warmup_steps: Count = 0
    """Optimizer steps spent rising to the peak; 0 uses `warmup_ratio`."""

    cosine_waves: Positive = 0.5
    """Waves of the cosine schedule; 0.5 falls once to zero."""

    end_learning_rate: NonNegative = 0.0
    """Last learning rate of the polynomial schedule; must be below the peak."""

    polynomial_power: Positive = 1.0
    """Power of the polynomial schedule; 1 is linear."""

    @model_validator(mode="after")
    def _end_below_peak(self) -> Self:
        if self.lr_scheduler == "polynomial" and self.end_learning_rate >= self.learning_rate:
            raise ValueError(
                f"end_learning_rate {self.end_learning_rate} must be smaller than "
                f"learning_rate {self.learning_rate}"
            )
        return self


class LoraConfig(Section):
    """Low-rank adapters; rank 0 trains the full model."""

    rank: Count = 16
    """Rank of the adapters; 0 trains every weight of the model instead."""

    alpha: Positive = 32
    """Scale of the adapters: their output is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""

    target_modules: Strings = ("all-linear",)
    """Module names that get an adapter; all-linear takes every linear layer but the head."""


class TrainConfig(Section):
    """The loop: batches, epochs, checkpoints."""

    num_train_epochs: Positive = 3.0
    """Passes over the corpus."""

    max_steps: Count = 0
    """Optimizer steps; 0 lets `num_train_epochs` decide."""

    batching: Literal["packed", "token_groups"] = "packed"
    """One optimizer step per batch of packs, or one per `token_group_size` target tokens."""

    pack_length: Count = 0
    """Tokens of one pack, at least 2; 0 takes data.max_length."""

    token_group_size: AtLeastOne = 10
    """Target tokens per optimizer step where batching is token_groups."""

    per_device_batch_size: AtLeastOne = 1
    """Packs per forward pass."""

    gradient_accumulation_steps: AtLeastOne = 1
    """Forward passes per optimizer step."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    logging_steps: AtLeastOne = 5
    """Optimizer steps between two logged losses."""

    eval_steps: Count = 0
    """Optimizer steps between two evaluations on the held-out rows; 0 leaves them out."""

    save_steps: Count = 50
    """Optimizer steps between two checkpoints; 0 writes none."""

    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept; two at least, so that one stands while the next is written."""

    resume: bool = True
    """Continue from the newest complete checkpoint of the same config, corpus and base."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""

    @model_validator(mode="after")
    def _pack_holds_a_target(self) -> Self:
        if self.pack_length == 1:
            raise ValueError("pack_length 1 has no room for a target; the least is 2")
        return self


class ArchitectureConfig(Section):
    """Shape of a model trained from scratch (Qwen3 architecture)."""

    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Entries of the byte-level BPE tokenizer, special tokens included."""

    hidden_size: AtLeastOne = 192
    """Width of the residual stream."""

    intermediate_size: AtLeastOne = 512
    """Width of the feed-forward layers."""

    num_hidden_layers: AtLeastOne = 6
    """Transformer blocks."""

    num_attention_heads: AtLeastOne = 4
    """Query heads."""

    num_key_value_heads: AtLeastOne = 2
    """Key and value heads; fewer than the query heads shares them."""

    head_dim: AtLeastOne = 48
    """Width of one head."""

    max_position_embeddings: AtLeastOne = 2048
    """Longest sequence the model is meant for, in tokens."""

    rope_theta: Positive = 10000.0
    """Base of the rotary position frequencies."""

    tie_word_embeddings: bool = True
    """Share the input embedding with the head."""

    initializer_range: Positive = 0.02
    """Standard deviation of the initial weights."""
