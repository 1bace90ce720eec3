"""A model's head as a Projection, read inside the head's own module calls.

Whoever shards a model (DeepSpeed ZeRO-3, FSDP) gathers a module's weights in hooks
around its call. So the weights are read, and the loss is formed, while the modules
that own them are being called; an ordinary call of the head is as it always was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.projection import Projection

R = TypeVar("R")


@dataclass(frozen=True)
class _Adapter:
    """One LoRA adapter of a head: logits += scaling x up(down(dropout(hidden)))."""

    dropout: Any
    down: Any
    up: Any
    scaling: float


def logit_scale(model: Any) -> float:
    """Factor on the head's output, before the cap, by the names that configs give it."""
    config = model.config.get_text_config()
    factor = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        factor *= getattr(config, name, None) or 1.0
    return factor / (getattr(config, "logits_scaling", None) or 1.0)  # Granite


def logit_softcap(model: Any) -> float:
    """Cap of the logits, cap x tanh(z / cap), 0 for none (Gemma)."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None) or 0.0


def check_supported(model: Any) -> None:
    """Raise ConfigError where the head is not linear with at most LoRA adapters on it."""
    _parts(model.get_output_embeddings())


def vocab_size(model: Any) -> int:
    """Logits per token of the model's head."""
    linear, _ = _parts(model.get_output_embeddings())
    return int(linear.out_features)


def with_projection(model: Any, hidden: Tensor, run: Callable[[Projection], R]) -> R:
    """run(projection of hidden [tokens, width]), during the calls of the head's modules.

    What `run` returns goes through the modules' hooks: a tensor, or a tuple of tensors and
    Nones. Under autocast the products run in its dtype, and nothing else changes.
    """
    linear, adapters = _parts(model.get_output_embeddings())
    device = hidden.device.type
    lows = [
        adapter.down(adapter.dropout(_as(hidden, adapter.down.weight))) * adapter.scaling
        for adapter in adapters
    ]
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))

    def gathered(inputs: list[Tensor]) -> R:
        uppers = [adapter.up for adapter in adapters]
        pairs = tuple(
            (rows, module.weight) for rows, module in zip(inputs, [linear, *uppers], strict=True)
        )
        bias = linear.bias
        for adapter in adapters:
            if adapter.up.bias is not None:
                shift = adapter.up.bias * adapter.scaling
                bias = shift if bias is None else bias + shift
        projection = Projection(pairs, bias, logit_softcap(model)).scaled(logit_scale(model))
        with torch.autocast(device, enabled=False):
            return run(projection)

    owners = [(linear, hidden), *((a.up, low) for a, low in zip(adapters, lows, strict=True))]
    return _inside(owners, [], gathered)


def _inside(
    owners: list[tuple[Any, Tensor]], inputs: list[Tensor], run: Callable[[list[Tensor]], R]
) -> R:
    """run([input of every owner]) while each owner is being called, one within the other."""
    if not owners:
        return run(inputs)
    (module, rows), *others = owners

    def forward(rows: Tensor) -> R:  # as the module's hooks hand it over
        return _inside(others, [*inputs, rows], run)

    with _forward_replaced(module, forward):
        result: R = module(rows)
    return result


@contextlib.contextmanager
def _forward_replaced(module: Any, forward: Callable[[Tensor], Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # accelerate, for one, puts its own there
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _as(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden in the adapter's dtype, unless autocast decides on dtypes (as peft does)."""
    return hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(weight.dtype)


def _parts(head: Any) -> tuple[Any, list[_Adapter]]:
    """(the linear module, the active adapters on it) of a head. Raises ConfigError."""
    from peft.tuners.lora import Linear as LoraLinear
    from peft.utils.other import ModulesToSaveWrapper

    adapters = []
    if isinstance(head, ModulesToSaveWrapper):
        trained = not head.disable_adapters and head.active_adapters
        head = head.modules_to_save[head.active_adapters[0]] if trained else head.original_module
    if isinstance(head, LoraLinear):
        if not head.disable_adapters and not head.merged:
            adapters = [_adapter(head, n) for n in head.active_adapters if n in head.lora_A]
        head = head.base_layer
    if not isinstance(head, torch.nn.Linear) or not head.weight.is_floating_point():
        raise ConfigError(
            f"the model's head is a {type(head).__name__}, and only linear heads with float "
            "weights, with or without LoRA, can be trained. Take the head ('lm_head') out of "
            "lora.target_modules, or do not quantize it."
        )
    return head, adapters


def _adapter(head: Any, name: str) -> _Adapter:
    if name in head.lora_variant:
        raise ConfigError(
            f"the adapter on the model's head is {type(head.lora_variant[name]).__name__}, which "
            "is more than a low-rank sum (DoRA, for one). Use plain LoRA, or take the head "
            "('lm_head') out of lora.target_modules."
        )
    return _Adapter(
        head.lora_dropout[name], head.lora_A[name], head.lora_B[name], head.scaling[name]
    )
