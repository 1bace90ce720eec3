"""Signals in tiles are those of the full distribution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_examples import plain_logits
from torch.utils._python_dispatch import TorchDispatchMode

from ytrainer_core.objectives import linear_signals
from ytrainer_core.objectives.linear_signals import (
    linear_token_nll,
    linear_token_signals,
    linear_top_tokens,
)
from ytrainer_core.objectives.projection import Projection

TOKENS, WIDTH, VOCAB = 23, 16, 200
NARROW = 64
"""Entries of the narrowest tile: 200 are then three tiles and a rest of 8."""


@pytest.fixture(params=[False, True], ids=["one tile", "narrow tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(linear_signals, "CPU_TILE_BYTES", 1)


def of_logits(*rows: list[float]) -> Projection:
    """A projection with these logits."""
    logits = torch.tensor(rows)
    return Projection(((torch.eye(len(rows)), logits.T.contiguous()),))


@pytest.mark.parametrize("chunk", [1, 7, 1000, 0])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [{}, {"scale": 0.3}, {"cap": 5.0}, {"scale": 2.0, "cap": 5.0}])
def test_signals_equal_those_of_the_full_distribution(
    chunk: int, biased: bool, shape: dict[str, float], tiles: None
) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
    low, up = torch.randn(TOKENS, 3), torch.randn(VOCAB, 3)
    bias = torch.randn(VOCAB) if biased else None
    labels = torch.randint(VOCAB, (TOKENS,))
    logits = plain_logits(hidden, head, bias, low=low, up=up, **shape)
    distribution = torch.distributions.Categorical(logits=logits)
    projection = Projection(((hidden, head), (low, up)), bias, shape.get("cap", 0.0))
    projection = projection.scaled(shape.get("scale", 1.0))
    signals = linear_token_signals(projection, labels, chunk_tokens=chunk, ranks=True)
    nll = -distribution.log_prob(labels)
    torch.testing.assert_close(signals.nll, nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(signals.entropy, distribution.entropy(), rtol=1e-5, atol=1e-5)
    assert signals.top_token.tolist() == distribution.probs.argmax(-1).tolist()
    top_prob = distribution.probs.amax(-1)
    torch.testing.assert_close(signals.top_prob, top_prob, rtol=1e-5, atol=1e-6)
    assert signals.rank is not None and signals.rank.dtype == torch.int32
    greater = logits > logits.gather(1, labels[:, None])
    assert signals.rank.tolist() == greater.sum(-1).tolist()
    alone = linear_token_nll(projection, labels, chunk_tokens=chunk)
    torch.testing.assert_close(alone, nll, rtol=1e-5, atol=1e-5)


def test_a_uniform_distribution_has_the_entropy_of_its_size() -> None:
    """ln 4 = 1.3863 for both nll and entropy over four equal tokens."""
    signals = linear_token_signals(of_logits([0.0] * 4), torch.tensor([3]))
    assert signals.nll.item() == pytest.approx(1.3863, abs=1e-4)
    assert signals.entropy.item() == pytest.approx(1.3863, abs=1e-4)
    assert signals.top_prob.item() == pytest.approx(0.25)
    assert signals.rank is None


@pytest.mark.parametrize(
    "target, rank",
    [(1, 0), (3, 0), (2, 2), (0, 3)],  # logits 1, 3, 2, 3: what is as great is not before it
)
def test_the_rank_is_the_number_of_tokens_with_a_greater_logit(target: int, rank: int) -> None:
    projection = of_logits([1.0, 3.0, 2.0, 3.0])
    found = linear_token_signals(projection, torch.tensor([target]), ranks=True).rank
    assert found is not None and found.tolist() == [rank]


@pytest.mark.parametrize("target, rank", [(5, 0), (70, 1), (199, 2), (100, 3)])
def test_tokens_of_other_tiles_count_for_the_rank(
    target: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_signals, "CPU_TILE_BYTES", 1)
    logits = [-9.0] * VOCAB
    logits[5], logits[70], logits[199], logits[100] = 4.0, 3.0, 2.0, 1.0
    found = linear_token_signals(of_logits(logits), torch.tensor([target]), ranks=True)
    assert found.rank is not None and found.rank.tolist() == [rank]
    assert found.top_token.tolist() == [5]


def test_of_equal_logits_the_first_token_is_the_expected_one(tiles: None) -> None:
    logits = [0.0] * VOCAB
    logits[66] = logits[130] = logits[67] = 1.0
    found = linear_token_signals(of_logits(logits), torch.tensor([130]), ranks=True)
    assert found.top_token.tolist() == [66]
    assert found.rank is not None and found.rank.tolist() == [0]


def test_a_certain_token_has_no_entropy_and_a_far_one_its_distance(tiles: None) -> None:
    """Exponentials of these logits overflow and vanish; their differences do not."""
    logits = [-1e4] * VOCAB
    logits[150] = 1e4
    found = linear_token_signals(of_logits(logits, logits), torch.tensor([150, 3]), ranks=True)
    assert found.nll.tolist() == [0.0, 2e4]
    assert found.entropy.tolist() == [0.0, 0.0]
    assert found.top_prob.tolist() == [1.0, 1.0]
    assert found.rank is not None and found.rank.tolist() == [0, 1]


def test_sums_over_bf16_logits_are_float32(tiles: None) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(TOKENS, WIDTH).bfloat16(), torch.randn(VOCAB, WIDTH).bfloat16()
    labels = torch.randint(VOCAB, (TOKENS,))
    logits = (hidden @ head.T).float()
    distribution = torch.distributions.Categorical(logits=logits)
    found = linear_token_signals(Projection(((hidden, head),)), labels, ranks=True)
    torch.testing.assert_close(found.nll, -distribution.log_prob(labels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, distribution.entropy(), rtol=1e-5, atol=1e-5)
    greater = logits > logits.gather(1, labels[:, None])
    assert found.rank is not None and found.rank.tolist() == greater.sum(-1).tolist()


@pytest.mark.parametrize("count", [1, 3, 70, VOCAB, VOCAB + 5])
def test_top_tokens_are_the_most_likely_with_their_probabilities(count: int, tiles: None) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH)
    best = (hidden @ head.T).softmax(-1).topk(min(count, VOCAB))
    tokens, probabilities = linear_top_tokens(Projection(((hidden, head),)), count)
    assert tokens.tolist() == best.indices.tolist()
    torch.testing.assert_close(probabilities, best.values, rtol=1e-5, atol=1e-6)


class _Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return found


def test_the_full_logits_are_never_held() -> None:
    """2,000 tokens x 4,000 entries are 32 MB in float32; both buffers together are 4 MiB."""
    hidden, head = torch.randn(2000, 4), torch.randn(4000, 4)
    projection, labels = Projection(((hidden, head),)), torch.zeros(2000, dtype=torch.int64)
    with _Largest() as seen:
        linear_token_signals(projection, labels, ranks=True)
        linear_token_nll(projection, labels)
        linear_top_tokens(projection, 3)
    assert 0 < seen.bytes <= 2 * linear_signals.CPU_TILE_BYTES


def test_a_device_with_bandwidth_takes_the_whole_vocabulary_at_once() -> None:
    """256 MiB of float32 are 441 tokens x 151,936 entries; "meta" computes shapes alone."""
    hidden, head = torch.empty(1000, 8, device="meta"), torch.empty(151_936, 8, device="meta")
    projection, labels = Projection(((hidden, head),)), torch.zeros(1000, 1, device="meta").long()
    with _Largest() as seen:
        found = linear_token_signals(projection, labels.squeeze(1), ranks=True)
    assert found.nll.shape == (1000,)
    assert seen.bytes == 2 * 441 * 151_936 * 4


def test_no_tokens_have_no_signals() -> None:
    projection = Projection(((torch.zeros(0, 2), torch.ones(4, 2)),))
    empty = torch.empty(0, dtype=torch.int64)
    signals = linear_token_signals(projection, empty, ranks=True)
    assert signals.rank is not None
    for one in (signals.nll, signals.entropy, signals.top_token, signals.top_prob, signals.rank):
        assert one.shape == (0,)
    assert linear_token_nll(projection, empty).shape == (0,)
    assert linear_top_tokens(projection, 2)[0].shape == (0, 2)
