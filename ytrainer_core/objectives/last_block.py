"""The last block's feed-forward network only where its output is read.

Above the last attention every position stands by itself, and the loss reads the trained ones
alone. In a block of three parts feed-forward to one part attention that saves, in a model of L
blocks with a share t of trained tokens, (1 - t) * 3 / (4 L) of the body's operations: one
part in nine for token groups in six blocks, one in seventy-five for instructions in twenty-eight
of which half is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ytrainer_core.objectives.evaluating import evaluating

_TOKENS = 8
_READ = (2, 5)
"""Tokens of the sequence on which a model is asked, and the positions that are compared."""

_WORTH_IT = 0.8
"""Share of read positions above which all are computed: picking them out costs as much."""

_answers: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@contextlib.contextmanager
def feed_forward_at(model: Any, positions: Tensor, tokens: int) -> Iterator[None]:
    """Within, the last block's feed-forward output is right at `positions` and zero elsewhere.

    model: a causal language model. positions: [n] of the flattened batch x seq of `tokens`.
    Nothing changes for a model in which that would change what is read, or whose blocks are
    compiled or recomputed in the backward pass (after this block has ended).
    """
    if positions.numel() > _WORTH_IT * tokens or not can_skip(model):
        yield
        return
    with _only_at(_last_feed_forward(model), positions):
        yield


@contextlib.contextmanager
def _only_at(network: Any, positions: Tensor) -> Iterator[None]:
    forward, own = network.forward, "forward" in network.__dict__

    def at_positions(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        read: Tensor = forward(rows.index_select(0, positions)[None])[0]
        return read.new_zeros(rows.shape).index_copy(0, positions, read).view_as(hidden)

    network.forward = at_positions
    try:
        yield
    finally:
        if own:
            network.forward = forward
        else:
            del network.forward


def can_skip(model: Any) -> bool:
    """Whether this model may be treated so, now; asked of its weights once, on the host."""
    block = _last_block(model)
    recomputed = getattr(block, "gradient_checkpointing", False) and block.training
    if _last_feed_forward(model) is None or recomputed or block._compiled_call_impl is not None:
        return False
    if any(isinstance(p, FakeTensor) for p in block.parameters()):
        return True  # a rehearsal counts what most models do
    if model not in _answers:
        _answers[model] = _reads_by_itself(model)
    return _answers[model]


def _last_block(model: Any) -> Any:
    layers = getattr(model.get_decoder(), "layers", None)
    return layers[-1] if layers else None


def _last_feed_forward(model: Any) -> Any:
    return getattr(_last_block(model), "mlp", None)


@torch.no_grad()
def _reads_by_itself(model: Any) -> bool:
    """Whether the hidden states that are read stay the same, on one short sequence."""
    if any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters()):
        return False
    device = model.get_input_embeddings().weight.device
    size = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(_TOKENS, device=device) * 7 % size)[None]
    read = torch.tensor(_READ, device=device)
    devices = [device] if device.type == "cuda" else []

    def hidden() -> Tensor:
        states: Tensor = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return states[0, read].float()

    with evaluating(model), torch.random.fork_rng(devices):
        whole = hidden()
        try:
            with _only_at(_last_feed_forward(model), read):
                sparse = hidden()
        except Exception:  # a network of another call, such as experts that return two things
            return False
    if not whole.isfinite().all():
        return False
    tolerance = 16 * torch.finfo(model.dtype).eps * whole.abs().max().item()
    return torch.allclose(whole, sparse, rtol=0, atol=tolerance)
