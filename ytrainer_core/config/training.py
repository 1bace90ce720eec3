"""Knobs of training: the model, the optimizer, adapters, the loop, the processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ytrainer_core.config.base import (
    AtLeastOne,
    Count,
    Ints,
    NonNegative,
    Positive,
    Section,
    Strings,
)
from ytrainer_core.config.cluster import Quantity
from ytrainer_core.config.presets import PRESETS, PresetName


def _as_resume(value: object) -> object:
    """YAML reads `true` and `false`; they mean always and never."""
    return {True: "always", False: "never"}.get(value, value) if isinstance(value, bool) else value


Resume = Annotated[Literal["auto", "always", "never"], BeforeValidator(_as_resume)]


class ModelConfig(Section):
    """The base model."""

    name_or_path: str = "demo:base"
    """Hub id or folder of the base model; demo:base is the small one that the demo makes."""

    revision: str = ""
    """Branch, tag or commit of a hub model; empty takes its default branch."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the computation; auto is bfloat16 on a GPU that has it, else float32."""

    init_from: str = ""
    """Earlier tuned model to start from, a folder or models:/NAME/VERSION. Its LoRA is continued
    with its own rank, or merged where every weight is trained."""

    attn_implementation: str = "auto"
    """Attention kernel as transformers names it; auto gives each document of a pack its own."""

    quantization: Literal["none", "4bit"] = "none"
    """Hold the frozen base in 4 bits (QLoRA); needs bitsandbytes and lora.rank > 0."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""


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

    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that a high rank is not muted (arXiv 2312.03732)."""

    dora: bool = False
    """Learn magnitude and direction of the weights apart (arXiv 2402.09353)."""

    init: Literal["default", "pissa"] = "default"
    """First values: B = 0, or the principal singular vectors of the weights (arXiv 2404.02948)."""

    plus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Learning rate of B over that of A; LoRA+ advises 16 (arXiv 2402.12354), 1 is plain."""


class EarlyStoppingConfig(Section):
    """When to stop before the last step."""

    patience: Count = 0
    """Evaluations without improvement after which training stops; 0 never stops early."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What must improve on the held-out rows: nats per token, or share of tokens guessed."""

    min_delta: NonNegative = 0.0
    """Smallest change that counts as improvement."""


class TrainConfig(Section):
    """The loop: batches, epochs, checkpoints."""

    num_train_epochs: Positive = 3.0
    """Passes over the corpus."""

    max_steps: Count = 0
    """Optimizer steps; 0 lets `num_train_epochs` decide."""

    batching: Literal["packed", "length_grouped", "token_groups"] = "packed"
    """Rows packed to `pack_length`, rows of like length together, or `token_group_size` targets
    of one row per optimizer step."""

    pack_length: Count = 0
    """Tokens of one pack, at least 2; 0 takes data.max_length."""

    token_group_size: AtLeastOne = 10
    """Target tokens per optimizer step where batching is token_groups."""

    per_device_batch_size: AtLeastOne = 1
    """Packs (rows, where they are grouped by length) per forward pass."""

    micro_batch_tokens: Count = 0
    """Tokens per forward pass at most; where set, it takes the place of per_device_batch_size."""

    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step; 0 takes as many as reach `global_batch_size`."""

    global_batch_size: AtLeastOne = 8
    """Packs per optimizer step over all processes that automatic accumulation aims at."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    freeze: Strings = ()
    """Parameters that stay as they are, by shell patterns such as *.layers.0.* on their names."""

    neftune_noise_alpha: NonNegative = 0.0
    """Noise on the embeddings while training (arXiv 2310.05914); 0 adds none, 5 is usual."""

    torch_compile: bool = False
    """Compile the model's layers: minutes at the start, faster steps on a GPU."""

    logging_steps: AtLeastOne = 5
    """Optimizer steps between two logged losses."""

    eval_steps: Count = 0
    """Optimizer steps between two evaluations on the held-out rows; 0 leaves them out."""

    save_steps: Count = 50
    """Optimizer steps between two checkpoints; 0 writes none."""

    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept; two at least, so that one stands while the next is written."""

    checkpoint_to: str = ""
    """Address s3://BUCKET/PREFIX at which checkpoints are stored as well while training goes on, so
    that another machine can continue it; empty keeps them on the disk alone."""

    save_epochs: Ints = ()
    """Epochs after which a finished model is kept beside the last one, counted from 1."""

    load_best_model: bool = False
    """End with the weights of the best evaluation; save_steps must be a multiple of eval_steps."""

    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()

    resume: Resume = "auto"
    """auto continues the same work where it was cut off; always also refuses to start anew where
    an unfinished training differs in config or corpus; never starts anew."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""

    @model_validator(mode="after")
    def _pack_holds_a_target(self) -> Self:
        if self.pack_length == 1:
            raise ValueError("pack_length 1 has no room for a target; the least is 2")
        return self

    @model_validator(mode="after")
    def _evaluated_often_enough(self) -> Self:
        if (self.early_stopping.patience or self.load_best_model) and not self.eval_steps:
            raise ValueError("early_stopping and load_best_model need eval_steps > 0")
        if self.load_best_model and (not self.save_steps or self.save_steps % self.eval_steps):
            raise ValueError(
                f"load_best_model needs save_steps to be a multiple of eval_steps "
                f"({self.save_steps} is none of {self.eval_steps})"
            )
        if self.checkpoint_to and not self.checkpoint_to.startswith("s3://"):
            raise ValueError(
                f"checkpoint_to '{self.checkpoint_to}' is no address in object storage; write it "
                "as s3://BUCKET/PREFIX, or leave it empty"
            )
        if self.checkpoint_to and not self.save_steps:
            raise ValueError("checkpoint_to needs save_steps > 0: checkpoints are what it stores")
        if any(epoch < 1 for epoch in self.save_epochs):
            raise ValueError("save_epochs counts from 1")
        return self


class LaunchConfig(Section):
    """Several processes for one training, on one machine or on several."""

    processes: AtLeastOne = 1
    """Processes on each machine, one a GPU; on CPU they share its cores."""

    nodes: AtLeastOne = 1
    """Machines of the training; above one it must run in a cluster with Kubeflow Trainer, which
    gives it that many as a TrainJob."""

    engine: Literal["ddp", "deepspeed"] = "ddp"
    """How they work together."""

    zero: Literal[1, 2, 3] = 2
    """DeepSpeed: what is split over processes - optimizer state, also gradients, also weights."""

    offload: Literal["none", "cpu"] = "none"
    """DeepSpeed: keep optimizer state (ZeRO-3: weights too) in main memory."""

    deepspeed_config: str = ""
    """A DeepSpeed JSON file that takes the place of `zero` and `offload`."""

    node_cpu: Quantity = "4"
    """Cores of each of several machines."""

    node_memory: Quantity = "16Gi"
    """Main memory of each of several machines."""

    node_gpus: Count = 0
    """GPUs of each of several machines."""

    node_gpu_type: Annotated[str, Field(min_length=1)] = "nvidia.com/gpu"
    """Resource by which the cluster knows the GPUs."""

    node_shared_memory: Quantity = "8Gi"
    """Most of a machine's memory that /dev/shm may take, through which its processes talk."""

    node_timeout_hours: NonNegative = 0.0
    """Hours that a TrainJob may take, its time in a queue included; 0 sets no limit."""

    runtime: Annotated[str, Field(min_length=1)] = "torch-distributed"
    """The ClusterTrainingRuntime of Kubeflow Trainer that the TrainJob builds on."""

    kueue_queue: str = ""
    """Kueue's LocalQueue in which the TrainJob waits for its machines; empty takes none."""

    kueue_priority_class: str = ""
    """Kueue's WorkloadPriorityClass of the TrainJob; empty takes the queue's own."""

    volcano_queue: str = ""
    """Volcano's queue for the TrainJob, whose runtime must ask for Volcano; empty takes none."""

    @property
    def world_size(self) -> int:
        """Processes on all machines together."""
        return self.nodes * self.processes

    @model_validator(mode="after")
    def _a_gpu_for_each_process(self) -> Self:
        if self.nodes > 1 and 0 < self.node_gpus < self.processes:
            raise ValueError(
                f"processes {self.processes} must not exceed node_gpus {self.node_gpus}, since "
                "each takes a GPU of its machine"
            )
        return self


class ArchitectureConfig(Section):
    """Shape of a model trained from scratch (Qwen3 architecture)."""

    preset: PresetName = ""
    """Size whose numbers take the place of every default below; a number given here still wins."""

    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Entries of the byte-level BPE tokenizer, special tokens included."""

    special_tokens: Strings = ()
    """Further tokens that are never split, e.g. <tool_call>, comma-separated."""

    chat_template: str = ""
    """File with a Jinja chat template; empty takes ChatML."""

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

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: object) -> object:
        """What is given wins over the preset, and the preset over the defaults."""
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(name, str) or name not in PRESETS:
            return values
        return {**PRESETS[name].shape, **values}

    @model_validator(mode="after")
    def _heads_can_be_shared(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}, since each of these serves "
                "equally many query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} must be even: rotary positions turn pairs of numbers"
            )
        return self
