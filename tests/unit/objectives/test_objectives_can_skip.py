"""Which models the last feed-forward network is spared in, by the state of their blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ytrainer_core.objectives.last_block import can_skip


def test_a_compiled_block_is_left_alone(make_model: Callable[..., Any]) -> None:
    model = make_model()
    assert can_skip(model)
    model.get_decoder().layers[-1].compile(backend="eager")
    assert not can_skip(model)


def test_blocks_are_recomputed_in_training_only(make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert not can_skip(model.train())
    assert can_skip(model.eval())
