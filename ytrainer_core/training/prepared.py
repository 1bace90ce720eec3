"""A model made ready for its training: attention of packs, objective, recomputation."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.attach import attach_objective, causal_lm, detach
from ytrainer_core.training.deepspeed import is_split
from ytrainer_core.training.documents import packed_attention
from ytrainer_core.training.job import TrainJob


@contextlib.contextmanager
def prepared(model: Any, job: TrainJob, teacher: Any = None) -> Iterator[bool]:
    """A model (and the teacher of a distillation) as they train; yields what packed_attention does.

    The model has its own attention and its own forward again afterwards.
    """
    with contextlib.ExitStack() as stack:
        flat = stack.enter_context(packed_attention(model, job.attn_implementation))
        if teacher is not None:
            stack.enter_context(packed_attention(teacher, job.attn_implementation))
        stack.enter_context(_objective_attached(model, job.objective, teacher))
        if job.train.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        yield flat


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Take parameters out of the training, by shell patterns on their names.

    Raises ConfigError for a pattern that fits none, and where nothing is left to train.
    """
    named = dict(causal_lm(model).named_parameters())
    for pattern in patterns:
        fitting = fnmatch.filter(named, pattern)
        if not fitting:
            raise ConfigError(
                f"train.freeze '{pattern}' fits no parameter. The model has for example "
                f"{', '.join(list(named)[:3])}."
            )
        for name in fitting:
            named[name].requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("train.freeze leaves nothing to train. Freeze less.")


@contextlib.contextmanager
def _objective_attached(model: Any, config: ObjectiveConfig, teacher: Any) -> Iterator[None]:
    """The objective under the model's forward while it trains."""
    reference = None
    if OBJECTIVES[config.name].reference and not hasattr(model, "disable_adapter"):
        if is_split(model):
            raise ConfigError(
                f"objective {config.name} keeps a copy of the base model, which ZeRO-3 has split "
                "over the processes. Take launch.zero=2, or lora.rank > 0."
            )
        reference = copy.deepcopy(model).requires_grad_(False).eval()
    attach_objective(model, config, teacher=teacher, reference=reference)
    try:
        yield
    finally:
        detach(model)
