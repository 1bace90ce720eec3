"""The model whose distribution is a soft target: a teacher, or the base model itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.evaluating import evaluating
from ytrainer_core.objectives.head import check_supported, vocab_size, with_projection
from ytrainer_core.objectives.projection import Projection

R = TypeVar("R")


@dataclass(frozen=True)
class Reference:
    """Whose distribution, and how it enters the loss.

    model: a frozen model; None is the model in training with its adapters off.
    """

    model: Any
    coefficient: float
    token_coefficient: float = 1.0
    temperature: float = 1.0

    def hidden(self, model: Any, run: Callable[[Any], Tensor]) -> Tensor:
        """run(the reference), without gradient, dropout and adapters of the model in training."""
        reference = model if self.model is None else self.model
        with torch.no_grad(), evaluating(reference), self._adapters_off(model):
            return run(reference)

    def project(self, model: Any, hidden: Tensor, run: Callable[[Projection], R]) -> R:
        """run(the reference's projection of hidden), during the calls of its head."""
        with self._adapters_off(model):
            return with_projection(model if self.model is None else self.model, hidden, run)

    def _adapters_off(self, model: Any) -> contextlib.AbstractContextManager[None]:
        return adapters_off(model) if self.model is None else contextlib.nullcontext()


def reference_for(
    model: Any, config: ObjectiveConfig, *, teacher: Any, reference: Any
) -> Reference | None:
    """The soft target that the config asks for, if any. Raises ConfigError where it cannot be."""
    anchored = OBJECTIVES[config.name].reference and config.asft.kl_coefficient > 0
    if config.distillation.teacher and teacher is None:
        raise ValueError("objective.distillation.teacher is set, and no teacher was loaded")
    if teacher is not None and anchored:
        raise ConfigError(
            f"objective.name={config.name} has the base model as its soft target, and "
            "objective.distillation.teacher is another. Take one of them, or set "
            "objective.asft.kl_coefficient=0."
        )
    if teacher is not None:
        share = config.distillation.token_loss_coefficient
        soft = Reference(_frozen(teacher), 1 - share, share, config.distillation.temperature)
    elif anchored:
        if reference is None and not any(_adapter_layers(model)):
            raise ConfigError(
                f"objective.name={config.name} needs the base model beside the one in training. "
                "Train an adapter (lora.rank > 0), which has it below itself, or pass a frozen "
                "copy of the base model as the reference."
            )
        soft = Reference(
            None if reference is None else _frozen(reference), config.asft.kl_coefficient
        )
    else:
        return None
    if soft.model is not None:
        check_supported(soft.model)
        ours, theirs = vocab_size(model), vocab_size(soft.model)
        if ours != theirs:
            raise ConfigError(
                f"the teacher has {theirs} tokens and the model {ours}: their distributions "
                "cannot be compared. Choose objective.distillation.teacher of the same family."
            )
    return soft


def _frozen(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.requires_grad_(False).eval()


def _adapter_layers(model: Any) -> Iterator[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield module


@contextlib.contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The base model within, the adapters as they were after.

    peft's own disable_adapter() also changes which parameters require a gradient, of what
    was frozen on purpose too, and that in the middle of a training step.
    """
    layers = [layer for layer in _adapter_layers(model) if not layer._disable_adapters]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
