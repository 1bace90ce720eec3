"""The last feed-forward network is spared where nothing reads it, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import SHAPE
from torch import Tensor, nn

from ytrainer_core.objectives.attach import hidden_at
from ytrainer_core.objectives.last_block import feed_forward_at

Make = Callable[..., Any]
IDS = torch.arange(24).reshape(2, 12) * 5 % 290
READ = torch.tensor([3, 10, 11, 20])


def of_architecture(name: str, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(name, **(SHAPE | special | changes))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def rows_seen(model: Any) -> list[int]:
    """Rows that the last feed-forward network's first product is given, call by call."""
    seen: list[int] = []
    last = model.get_decoder().layers[-1].mlp
    first = next(m for m in last.modules() if isinstance(m, nn.Linear))
    first.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel()))
    return seen


def whole(model: Any) -> Tensor:
    hidden = model.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[READ]


@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma2", "cohere", "granite", "phi"])
def test_hidden_states_and_gradients_are_those_of_the_whole(name: str) -> None:
    model = of_architecture(name)
    weights = dict(model.get_decoder().named_parameters())
    expected = whole(model)
    wanted = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    hidden_at(model, READ, input_ids=IDS)  # asks the model
    seen = rows_seen(model)
    found = hidden_at(model, READ, input_ids=IDS)
    assert seen == [len(READ)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad(found.square().sum(), list(weights.values()))
    for given, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(given, right, rtol=1e-4, atol=1e-4)


def test_the_network_has_its_own_forward_again_afterwards(make_model: Make) -> None:
    model = make_model()
    hidden_at(model, READ, input_ids=IDS)
    assert "forward" not in model.get_decoder().layers[-1].mlp.__dict__
    with pytest.raises(ZeroDivisionError), feed_forward_at(model, READ, IDS.numel()):
        raise ZeroDivisionError
    assert "forward" not in model.get_decoder().layers[-1].mlp.__dict__


class Mixing(nn.Module):
    """A feed-forward network that looks at the position before."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        before = hidden.roll(1, 1) if hidden.shape[1] > 1 else hidden
        return self.inner(hidden + before)  # type: ignore[no-any-return]


def test_a_network_that_looks_at_other_positions_is_left_alone(make_model: Make) -> None:
    model = make_model()
    last = model.get_decoder().layers[-1]
    last.mlp = Mixing(last.mlp)
    seen = rows_seen(model)
    torch.testing.assert_close(hidden_at(model, READ, input_ids=IDS), whole(model))
    assert seen[-2] == IDS.numel()


def test_blocks_that_are_recomputed_are_left_alone(make_model: Make) -> None:
    model = make_model().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    seen = rows_seen(model)
    hidden_at(model, READ, input_ids=IDS).sum().backward()
    assert seen == [IDS.numel()] * 2


def test_where_nearly_all_is_read_all_is_computed(make_model: Make) -> None:
    model = make_model()
    seen = rows_seen(model)
    hidden_at(model, torch.arange(23), input_ids=IDS)
    assert seen == [IDS.numel()]


def test_asking_leaves_modes_and_random_states_as_they_were(make_model: Make) -> None:
    model = make_model().train()
    state = torch.get_rng_state()
    hidden_at(model, READ, input_ids=IDS)
    assert model.training and torch.equal(torch.get_rng_state(), state)
