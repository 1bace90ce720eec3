"""Signals in chunks are those of the full distribution."""

from __future__ import annotations

import pytest
import torch
from objective_examples import plain_logits

from ytrainer_core.objectives.linear_signals import linear_token_nll, linear_token_signals
from ytrainer_core.objectives.projection import Projection

TOKENS, WIDTH, VOCAB = 23, 16, 50


@pytest.mark.parametrize("chunk", [1, 7, 1000, 0])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [{}, {"scale": 0.3}, {"cap": 5.0}, {"scale": 2.0, "cap": 5.0}])
def test_signals_equal_those_of_the_full_distribution(
    chunk: int, biased: bool, shape: dict[str, float]
) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
    low, up = torch.randn(TOKENS, 3), torch.randn(VOCAB, 3)
    bias = torch.randn(VOCAB) if biased else None
    labels = torch.randint(VOCAB, (TOKENS,))
    distribution = torch.distributions.Categorical(
        logits=plain_logits(hidden, head, bias, low=low, up=up, **shape)
    )
    projection = Projection(((hidden, head), (low, up)), bias, shape.get("cap", 0.0))
    projection = projection.scaled(shape.get("scale", 1.0))
    signals = linear_token_signals(projection, labels, chunk_tokens=chunk)
    nll = -distribution.log_prob(labels)
    torch.testing.assert_close(signals.nll, nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(signals.entropy, distribution.entropy(), rtol=1e-5, atol=1e-5)
    assert signals.top_token.tolist() == distribution.probs.argmax(-1).tolist()
    alone = linear_token_nll(projection, labels, chunk_tokens=chunk)
    torch.testing.assert_close(alone, nll, rtol=1e-5, atol=1e-5)


def test_a_uniform_distribution_has_the_entropy_of_its_size() -> None:
    """ln 4 = 1.3863 for both nll and entropy over four equal tokens."""
    projection = Projection(((torch.zeros(1, 2), torch.ones(4, 2)),))
    signals = linear_token_signals(projection, torch.tensor([3]))
    assert signals.nll.item() == pytest.approx(1.3863, abs=1e-4)
    assert signals.entropy.item() == pytest.approx(1.3863, abs=1e-4)


def test_no_tokens_have_no_signals() -> None:
    projection = Projection(((torch.zeros(0, 2), torch.ones(4, 2)),))
    empty = torch.empty(0, dtype=torch.int64)
    signals = linear_token_signals(projection, empty)
    assert signals.nll.shape == signals.entropy.shape == signals.top_token.shape == (0,)
    assert linear_token_nll(projection, empty).shape == (0,)
