"""Does a model make its logits as we do? Asked once, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses import FakeTensor

from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.evaluating import evaluating
from ytrainer_core.objectives.head import with_projection
from ytrainer_core.objectives.linear_signals import linear_token_nll

_TOKENS = 16
"""Tokens of the random sequence that is compared."""

_TOLERANCE = 2e-3
"""Difference between two ways to the same logits, relative to the greatest; TF32 rounds so."""


@torch.no_grad()
def check_logits(model: Any, plain_forward: Callable[..., Any]) -> None:
    """Raise ConfigError where the model's own logits are not those of its head as we read it.

    Catches any scaling that `logit_scale` and `logit_softcap` do not know. Leaves modes and
    random states as they were; skips a model whose weights are not here (sharded, meta, fake).
    """
    if any(
        p.is_meta or isinstance(p, FakeTensor) or hasattr(p, "ds_id") for p in model.parameters()
    ):
        return
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(0)
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocab, (1, _TOKENS), generator=generator).to(device)
    devices = [device] if device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices):
        logits = plain_forward(input_ids=ids, use_cache=False).logits[0, :-1].float()
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        ours = with_projection(model, hidden, lambda p: linear_token_nll(p, ids[0, 1:]))
    if not logits.isfinite().all():
        return  # broken weights are not this check's affair, and cannot be compared
    own = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    allowed = max(_TOLERANCE, 4 * torch.finfo(hidden.dtype).eps) * logits.abs().max().item()
    if not torch.allclose(ours, own, rtol=1e-5, atol=allowed + 1e-6):
        raise ConfigError(
            f"{model.config.model_type}: the model's logits are not its head's output, scaled and "
            "capped as its config says: token losses differ by up to "
            f"{(ours - own).abs().max().item():.3g} nats. It cannot be trained with this "
            "objective; choose a model of another architecture."
        )
