"""Put the chunked objective under a causal language model's own forward.

The forward is replaced on the module itself, so that DDP, DeepSpeed and gradient
checkpointing see an ordinary forward call. Without labels the model behaves as
before, so generation keeps working.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.linear_nll import (
    TokenSignals,
    linear_token_loss,
    linear_token_signals,
)


@dataclass
class TokenLossOutput(ModelOutput):  # type: ignore[misc]
    """loss: scalar; nll, weights: [trained tokens of this micro-batch], detached, nats."""

    loss: Tensor | None = None
    nll: Tensor | None = None
    weights: Tensor | None = None


def causal_lm(model: Any) -> Any:
    """The transformers model below DDP's, peft's or compile's wrapping."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def target_hidden(
    model: Any, input_ids: Tensor, labels: Tensor, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """Hidden states [n, width] that predict the trained tokens, and those tokens [n].

    input_ids, labels: [batch, seq]. Documents of a pack are told apart by
    position_ids alone, which holds only without attention mask and without cache.
    """
    body = model.get_decoder()
    hidden = body(
        input_ids=input_ids, attention_mask=None, use_cache=False, **inputs
    ).last_hidden_state
    targets = labels[:, 1:]
    trained = targets != IGNORED
    return hidden[:, :-1][trained], targets[trained]


def check_supported(model: Any) -> None:
    """Refuse a model whose logits are more than a linear head, rather than train it wrongly."""
    if not isinstance(model.get_output_embeddings(), torch.nn.Linear):
        raise ConfigError(
            "the model's head is wrapped or not linear, which the chunked objective does not do "
            "yet. Take the head ('lm_head') out of lora.target_modules."
        )
    text_config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(text_config, name, None)
        if value not in (None, 0, 1, 1.0):
            raise ConfigError(
                f"{model.config.model_type} scales or caps its logits ({name}={value}), which "
                "the chunked objective does not do yet. Choose a model without it."
            )


def attach_objective(model: Any, config: ObjectiveConfig) -> None:
    """Make model(input_ids, labels, ...) return the objective's loss.

    The loss is the weighted sum divided by num_items_in_batch (the trained tokens of
    the whole global batch), or by this micro-batch's tokens where it is not given.
    A forward whose loss is not finite raises ValueError.
    """
    inner = causal_lm(model)
    check_supported(inner)
    plain_forward = inner.forward
    objective = OBJECTIVES[config.name]

    def weigh(nll: Tensor) -> Tensor:
        return objective(nll, config)

    @functools.wraps(plain_forward)
    def forward(
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if labels is None:
            return plain_forward(input_ids=input_ids, position_ids=position_ids, **kwargs)
        assert input_ids is not None
        hidden, targets = target_hidden(inner, input_ids, labels, position_ids=position_ids)
        head = inner.get_output_embeddings()
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            hidden = hidden.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            result = linear_token_loss(
                hidden,
                head.weight,
                targets,
                weigh,
                bias=getattr(head, "bias", None),
                chunk_tokens=config.chunk_tokens,
            )
        if not torch.isfinite(result.loss):
            raise ValueError("the loss is not finite")
        if num_items_in_batch is None:
            denominator: Tensor | int = max(1, targets.numel())
        else:
            denominator = num_items_in_batch
        return TokenLossOutput(result.loss / denominator, result.nll, result.weights)

    inner.forward = forward


@torch.no_grad()
def model_signals(model: Any, input_ids: Tensor, labels: Tensor, **inputs: Any) -> TokenSignals:
    """Signals of every trained token of a batch, flattened in reading order.

    input_ids, labels: [batch, seq], right-padded with label -100.
    """
    inner = causal_lm(model)
    check_supported(inner)
    hidden, targets = target_hidden(inner, input_ids, labels, **inputs)
    head = inner.get_output_embeddings()
    return linear_token_signals(hidden, head.weight, targets, bias=getattr(head, "bias", None))
