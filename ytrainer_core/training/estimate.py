"""What a training would take, told before it runs: steps, parameters, memory.

Memory is counted, not measured: weights, gradients and optimizer state by their
number of bytes, activations by what one layer keeps per token.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from ytrainer_core.config import SftConfig
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.files import home
from ytrainer_core.objectives.linear_nll import chunk_size
from ytrainer_core.training.batches import build_batches
from ytrainer_core.training.model import add_lora, compute_dtype, load_tokenizer, locate

_KEPT_WIDTHS = 18
"""Widths of the residual stream that a transformer block keeps per token for the backward
pass: norms, q, k, v, attention and its output, and the feed-forward's three products, which
count about 3 x intermediate / hidden and are added apart."""

_GIB = 2**30


def estimate(config: SftConfig) -> dict[str, str]:
    """Rows, tokens, optimizer steps, trainable parameters and memory of a training.

    Loads the tokenizer and the model's shape, not its weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = locate(config.model)
    tokenizer = load_tokenizer(folder, trust_remote_code=config.model.trust_remote_code)
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".show.") as scratch:
        corpus = prepare_corpus(
            config.data, Path(scratch) / "dataset", tokenizer=tokenizer, seed=config.seed
        )
        rows = tokenize_dataset(corpus.train, tokenizer, config.data)
        packs = build_batches(rows, config.train, config.data.max_length)
    batches = math.ceil(len(packs) / config.train.per_device_batch_size)
    per_epoch = math.ceil(batches / config.train.gradient_accumulation_steps)
    steps = config.train.max_steps or math.ceil(per_epoch * config.train.num_train_epochs)
    targets = sum(label != -100 for row in rows for label in row["labels"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
        )
        if config.lora.rank:
            model = add_lora(model, config.lora)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    longest = max(
        sum(len(piece["input_ids"]) for pack in packs[i] for piece in pack)
        for i in range(len(packs))
    )
    tokens = longest * config.train.per_device_batch_size
    parts = memory_parts(model, config, total, trainable, tokens)
    return {
        "rows": f"{len(rows):,}",
        "trained tokens": f"{targets:,} per epoch",
        "optimizer steps": f"{steps:,} ({len(packs):,} {config.train.batching} samples)",
        "trainable parameters": f"{trainable:,} of {total:,} ({trainable / total:.2%})",
        "memory": f"{sum(parts.values()) / _GIB:.2f} GiB: "
        + " · ".join(f"{name} {size / _GIB:.2f}" for name, size in parts.items()),
    }


def memory_parts(
    model: Any, config: SftConfig, total: int, trainable: int, tokens: int
) -> dict[str, float]:
    """Bytes of each part of a training step over `tokens` tokens."""
    shape = model.config.get_text_config()
    width = torch.finfo(compute_dtype(config.model.dtype)).bits // 8
    frozen_width = width if config.lora.rank else 4
    kept = _KEPT_WIDTHS * shape.hidden_size + 3 * shape.intermediate_size
    layers = 1 if config.train.gradient_checkpointing else shape.num_hidden_layers
    chunk = min(tokens, chunk_size(shape.vocab_size, config.objective.chunk_tokens))
    return {
        "weights": float(total * frozen_width),
        "gradients": float(trainable * 4),
        "optimizer": float(trainable * 8),  # AdamW keeps two float32 moments
        "activations": float(tokens * kept * layers * width),
        "logits chunk": float(chunk * shape.vocab_size * 4 * 2),  # logits and their gradient
    }
