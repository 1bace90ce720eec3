"""Put the chunked objective under a causal language model's own forward.

The forward is replaced on the module itself, so that DDP, DeepSpeed and gradient
checkpointing see an ordinary forward call. Without labels the model behaves as
before, so generation keeps working.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.objectives import OBJECTIVES, token_weights
from ytrainer_core.objectives.check import check_logits
from ytrainer_core.objectives.head import check_supported, with_projection
from ytrainer_core.objectives.last_block import can_skip, feed_forward_at
from ytrainer_core.objectives.liger import check_liger, liger_token_loss
from ytrainer_core.objectives.linear_nll import linear_token_loss
from ytrainer_core.objectives.linear_signals import (
    TokenSignals,
    linear_token_nll,
    linear_token_signals,
)
from ytrainer_core.objectives.projection import Projection
from ytrainer_core.objectives.reference import Reference, reference_for
from ytrainer_core.objectives.soft_target import SoftTarget


@dataclass
class TokenLossOutput(ModelOutput):  # type: ignore[misc]
    """What a forward with labels returns.

    loss: scalar. The others: [trained tokens of this micro-batch], float32, detached; nats.
    entropy only with return_entropy, divergence only with a teacher or reference.
    """

    loss: Tensor | None = None
    nll: Tensor | None = None
    weights: Tensor | None = None
    entropy: Tensor | None = None
    divergence: Tensor | None = None


def causal_lm(model: Any) -> Any:
    """The transformers model below DDP's, peft's or compile's wrapping."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trained_positions(labels: Tensor) -> Tensor:
    """Indices [n] into the flattened batch x seq of the positions that predict trained tokens.

    labels: [batch, seq]. Position p predicts label p + 1. On a GPU the host waits for the
    answer, so that a collator had better know it (`target_positions` of the forward).
    """
    trained = torch.zeros_like(labels, dtype=torch.bool)
    trained[:, :-1] = labels[:, 1:] != IGNORED
    return trained.flatten().nonzero().squeeze(1)


def hidden_at(model: Any, positions: Tensor, **inputs: Any) -> Tensor:
    """Hidden states [n, width] at `positions` of the flattened batch x seq.

    Documents of a pack are told apart by position_ids alone (or by what the caller passes on),
    which holds only without attention mask and without cache.
    """
    body = model.get_decoder()
    with feed_forward_at(model, positions, inputs["input_ids"].numel()):
        hidden = body(**{"attention_mask": None, **inputs, "use_cache": False}).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, positions)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Attached:
    """An objective on a model. own_forward: what stood on the instance before, if anything."""

    config: ObjectiveConfig
    reference: Reference | None
    own_forward: Any

    def plain_forward(self, model: Any) -> Any:
        """The model's forward as it was."""
        return self.own_forward or type(model).forward.__get__(model)

    def loss(
        self,
        projection: Projection,
        targets: Tensor,
        soft: Projection | None,
        *,
        given: Tensor | None,
        median_nll: Tensor | None,
        entropy: bool,
    ) -> tuple[Tensor | None, ...]:
        """(sum of losses, nll, weights, entropy, divergence) of the targets [n]."""
        config = self.config
        objective = OBJECTIVES[config.name]
        if config.backend == "liger":
            plain = liger_token_loss(projection, targets, given)
            return plain.loss, plain.nll, plain.weights, None, None
        if objective.batch_median and median_nll is None:
            nll = linear_token_nll(projection, targets, chunk_tokens=config.chunk_tokens)
            median_nll = nll.median() if nll.numel() else nll.new_ones(())
        soft_target = None
        if soft is not None and self.reference is not None:
            soft_target = SoftTarget(soft, self.reference.coefficient, self.reference.temperature)
        result = linear_token_loss(
            projection,
            targets,
            functools.partial(token_weights, config=config),
            chunk_tokens=config.chunk_tokens,
            top_tokens=config.eaft.top_tokens if objective.top_entropy else 0,
            median_nll=median_nll,
            given=given,
            entropy=entropy,
            soft=soft_target,
            token_coefficient=self.reference.token_coefficient if self.reference else 1.0,
        )
        return result.loss, result.nll, result.weights, result.entropy, result.divergence


def attach_objective(
    model: Any, config: ObjectiveConfig, *, teacher: Any = None, reference: Any = None
) -> None:
    """Make model(input_ids, labels, ...) return the objective's loss as a TokenLossOutput.

    The loss is the sum over this micro-batch's targets divided by num_items_in_batch (the
    trained tokens of the whole global batch), or by their number where it is not given. It
    may be NaN: whoever steps on it checks. A model that has an objective gets this one instead.

    teacher: a frozen model of the same vocabulary to distil from. reference: a frozen copy of
    the base model for an objective that needs one; a model with adapters is its own, with them
    off. Raises ConfigError where model, objective and backend do not fit together.
    """
    inner = causal_lm(model)
    detach(inner)
    check_supported(inner)
    soft = reference_for(inner, config, teacher=teacher, reference=reference)
    if config.backend == "liger":
        check_liger(config, soft_target=soft is not None)
    attached = _Attached(config, soft, inner.__dict__.get("forward"))
    check_logits(inner, attached.plain_forward(inner))
    for one in filter(None, (inner, teacher, reference)):
        can_skip(causal_lm(one))  # asked here, so that no forward waits for the answer

    @functools.wraps(type(inner).forward)  # generate() reads the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _objective_forward(self, *args, **kwargs)

    inner._objective = attached
    inner.forward = MethodType(forward, inner)  # a bound method, so that a deep copy has its own


def detach(model: Any) -> None:
    """Give the model its own forward back; one without an objective is left alone."""
    inner = causal_lm(model)
    attached = inner.__dict__.pop("_objective", None)
    if attached is None:
        return
    if attached.own_forward is None:
        del inner.forward
    else:
        inner.forward = attached.own_forward


def _objective_forward(
    model: Any,
    input_ids: Tensor | None = None,
    labels: Tensor | None = None,
    position_ids: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    token_weights: Tensor | None = None,
    median_nll: Tensor | None = None,
    target_positions: Tensor | None = None,
    return_entropy: bool = False,
    **inputs: Any,
) -> Any:
    """The forward of a model with an objective; nothing in it waits for the device.

    input_ids, labels, position_ids: [batch, seq]. token_weights: [batch, seq], float, the
    weight of each label, at the label's place. median_nll: scalar, over the global batch;
    None takes this micro-batch's. target_positions: [n], int64, as `trained_positions()` finds
    them. Further inputs (cu_seq_lens_q, max_length_q, attention_mask, ...) go to the body.
    """
    attached: _Attached = model._objective
    inputs = {"input_ids": input_ids, "position_ids": position_ids, **inputs}
    if labels is None:
        return attached.plain_forward(model)(**inputs)
    if OBJECTIVES[attached.config.name].base_nll and token_weights is None:
        raise ValueError(
            f"objective '{attached.config.name}' weighs by the base model: pass token_weights"
        )
    positions = trained_positions(labels) if target_positions is None else target_positions
    targets = labels.flatten().index_select(0, positions + 1)
    given = token_weights
    if given is not None:
        given = given.flatten().index_select(0, positions + 1).float()
    soft_hidden = None
    if attached.reference is not None:
        soft_hidden = attached.reference.hidden(model, lambda m: hidden_at(m, positions, **inputs))
    hidden = hidden_at(model, positions, **inputs)

    def loss(projection: Projection) -> tuple[Tensor | None, ...]:
        def against(soft: Projection | None) -> tuple[Tensor | None, ...]:
            return attached.loss(
                projection,
                targets,
                soft,
                given=given,
                median_nll=median_nll,
                entropy=return_entropy,
            )

        if attached.reference is None or soft_hidden is None:
            return against(None)
        return attached.reference.project(model, soft_hidden, against)

    total, *per_token = with_projection(model, hidden, loss)
    assert total is not None
    items = max(1, targets.numel()) if num_items_in_batch is None else num_items_in_batch
    return TokenLossOutput(total / items, *per_token)


@torch.no_grad()
def model_signals(
    model: Any,
    input_ids: Tensor,
    labels: Tensor,
    *,
    target_positions: Tensor | None = None,
    ranks: bool = False,
    **inputs: Any,
) -> TokenSignals:
    """Signals of every trained token of a batch, flattened in reading order.

    input_ids, labels: [batch, seq], right-padded with label -100. target_positions: [n], int64,
    as `trained_positions()` finds them. ranks: also each target's rank. Raises ConfigError for a
    head that is not linear.
    """
    inner = causal_lm(model)
    positions = trained_positions(labels) if target_positions is None else target_positions
    targets = labels.flatten().index_select(0, positions + 1)
    hidden = hidden_at(inner, positions, input_ids=input_ids, **inputs)

    def signals(projection: Projection) -> tuple[Tensor | None, ...]:
        found = linear_token_signals(projection, targets, ranks=ranks)
        return found.nll, found.entropy, found.top_token, found.top_prob, found.rank

    found: Any = with_projection(inner, hidden, signals)
    return TokenSignals(*found)


@torch.no_grad()
def model_nll(model: Any, input_ids: Tensor, labels: Tensor, **inputs: Any) -> Tensor:
    """Loss [n] in nats of every trained token of a batch, flattened in reading order.

    Shapes as in model_signals; cheaper where nothing else is wanted.
    """
    inner = causal_lm(model)
    positions = inputs.pop("target_positions", None)
    positions = trained_positions(labels) if positions is None else positions
    targets = labels.flatten().index_select(0, positions + 1)
    hidden = hidden_at(inner, positions, input_ids=input_ids, **inputs)
    nll: Tensor = with_projection(inner, hidden, lambda p: linear_token_nll(p, targets))
    return nll
