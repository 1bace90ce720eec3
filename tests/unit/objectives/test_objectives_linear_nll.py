"""The chunked loss is the plain one: same loss, same gradients, without the full logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from ytrainer_core.config import NlirgConfig, ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.linear_nll import (
    chunk_size,
    linear_token_loss,
    linear_token_signals,
)

TOKENS, WIDTH, VOCAB = 23, 16, 50
Weigh = Callable[[Tensor], Tensor]

OBJECTIVE_CONFIGS = [
    ObjectiveConfig(name="cross_entropy"),
    ObjectiveConfig(name="nlirg"),
    ObjectiveConfig(name="nlirg", nlirg=NlirgConfig(easy_floor="zero")),
]


def weigher(config: ObjectiveConfig) -> Weigh:
    return partial(OBJECTIVES[config.name], config=config)


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [tokens, width], head [vocab, width], bias [vocab], labels; losses from 0 to 15."""
    torch.manual_seed(0)
    hidden, head = torch.randn(TOKENS, WIDTH) * 1.2, torch.randn(VOCAB, WIDTH)
    return hidden, head, torch.randn(VOCAB), torch.randint(VOCAB, (TOKENS,))


def plain(
    hidden: Tensor, head: Tensor, bias: Tensor | None, labels: Tensor, weigh: Weigh
) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of hidden, head and bias, by autograd through the full logits."""
    leaves = [t.clone().requires_grad_() for t in (hidden, head, bias) if t is not None]
    logits = torch.nn.functional.linear(*leaves)
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    loss = (weigh(nll.detach()) * nll).sum()
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


def test_the_losses_of_this_file_lie_in_every_part_of_the_curve(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, bias, labels = tensors
    nll = linear_token_signals(hidden, head, labels, bias=bias).nll
    for low, high in [(0, 3), (3, 15), (15, 100)]:
        assert ((nll > low) & (nll < high)).any()


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 24, 1000, 0])
@pytest.mark.parametrize("config", OBJECTIVE_CONFIGS, ids=["ce", "nlirg", "nlirg zero"])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_every_gradient_equal_autograd_through_full_logits(
    chunk: int,
    config: ObjectiveConfig,
    biased: bool,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, bias, labels = tensors
    given = [hidden, head, *([bias] if biased else [])]
    expected, expected_grads = plain(*given, *([] if biased else [None]), labels, weigher(config))
    leaves = [t.clone().requires_grad_() for t in given]
    result = linear_token_loss(
        leaves[0],
        leaves[1],
        labels,
        weigher(config),
        bias=leaves[2] if biased else None,
        chunk_tokens=chunk,
    )
    (3 * result.loss).backward()
    torch.testing.assert_close(result.loss.detach(), expected, rtol=1e-5, atol=1e-5)
    for leaf, grad in zip(leaves, expected_grads, strict=True):
        torch.testing.assert_close(leaf.grad, 3 * grad, rtol=1e-5, atol=1e-5)


def test_the_weights_are_those_of_the_objective_and_carry_no_gradient(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, _, labels = tensors
    hidden.requires_grad_()
    config = ObjectiveConfig(name="nlirg")
    result = linear_token_loss(hidden, head, labels, weigher(config), chunk_tokens=5)
    log_p = (hidden @ head.T).log_softmax(-1).detach()
    torch.testing.assert_close(result.nll, -log_p[torch.arange(TOKENS), labels])
    torch.testing.assert_close(result.weights, weigher(config)(result.nll))
    assert not result.nll.requires_grad and not result.weights.requires_grad


@pytest.mark.parametrize("frozen", ["head", "hidden", "bias"])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(
    frozen: str, tensors: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    hidden, head, bias, labels = tensors
    weigh = weigher(ObjectiveConfig(name="nlirg"))
    _, grads = plain(hidden, head, bias, labels, weigh)
    leaves = {"hidden": hidden, "head": head, "bias": bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    linear_token_loss(hidden, head, labels, weigh, bias=bias, chunk_tokens=7).loss.backward()
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        if name == frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, grad, rtol=1e-5, atol=1e-5)


def test_with_everything_frozen_there_is_a_loss_and_no_gradient(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, _, labels = tensors
    weigh = weigher(ObjectiveConfig(name="cross_entropy"))
    result = linear_token_loss(hidden, head, labels, weigh, chunk_tokens=7)
    expected, _ = plain(hidden, head, None, labels, weigh)
    torch.testing.assert_close(result.loss, expected)
    assert not result.loss.requires_grad


@pytest.mark.parametrize("config", OBJECTIVE_CONFIGS[:2], ids=lambda c: c.name)
def test_bf16_is_the_float32_result_to_its_own_precision(
    config: ObjectiveConfig, tensors: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    hidden, head, bias, labels = (t.bfloat16() if t.is_floating_point() else t for t in tensors)
    weigh = weigher(config)
    expected, grads = plain(hidden.float(), head.float(), bias.float(), labels, weigh)
    leaves = [t.clone().requires_grad_() for t in (hidden, head, bias)]
    result = linear_token_loss(*leaves[:2], labels, weigh, bias=leaves[2], chunk_tokens=7)
    result.loss.backward()
    assert result.loss.dtype == result.nll.dtype == torch.float32
    torch.testing.assert_close(result.loss.detach(), expected, rtol=1e-2, atol=0)
    for leaf, grad in zip(leaves, grads, strict=True):
        assert leaf.grad.dtype == torch.bfloat16
        assert (leaf.grad.float() - grad).norm() < 2e-2 * grad.norm()


def test_a_float32_head_takes_bf16_hidden_states_as_autocast_gives_them(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, _, labels = tensors
    weigh = weigher(ObjectiveConfig(name="cross_entropy"))
    _, (grad_hidden, grad_head) = plain(hidden.bfloat16().float(), head, None, labels, weigh)
    low, head = hidden.bfloat16().requires_grad_(), head.requires_grad_()
    linear_token_loss(low, head, labels, weigh, chunk_tokens=7).loss.backward()
    assert (low.grad.dtype, head.grad.dtype) == (torch.bfloat16, torch.float32)
    assert (low.grad.float() - grad_hidden).norm() < 2e-2 * grad_hidden.norm()
    assert (head.grad - grad_head).norm() < 2e-2 * grad_head.norm()


def test_a_batch_without_targets_has_loss_zero_and_gradient_zero(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, head, _, labels = tensors
    head.requires_grad_()
    result = linear_token_loss(hidden[:0], head, labels[:0], weigher(ObjectiveConfig(name="nlirg")))
    result.loss.backward()
    assert result.loss.item() == 0 and result.nll.shape == result.weights.shape == (0,)
    assert head.grad is not None and head.grad.abs().max() == 0
    assert linear_token_signals(hidden[:0], head, labels[:0]).nll.shape == (0,)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 0])
@pytest.mark.parametrize("biased", [False, True])
def test_signals_equal_those_of_the_full_distribution(
    chunk: int, biased: bool, tensors: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    hidden, head, bias, labels = tensors
    distribution = torch.distributions.Categorical(logits=hidden @ head.T + (bias if biased else 0))
    signals = linear_token_signals(
        hidden, head, labels, bias=bias if biased else None, chunk_tokens=chunk
    )
    torch.testing.assert_close(signals.nll, -distribution.log_prob(labels))
    torch.testing.assert_close(signals.entropy, distribution.entropy())
    assert signals.top_token.tolist() == distribution.probs.argmax(-1).tolist()


def test_a_uniform_distribution_has_the_entropy_of_its_size() -> None:
    """ln 4 = 1.3863 for both nll and entropy over four equal tokens."""
    signals = linear_token_signals(torch.zeros(1, 2), torch.ones(4, 2), torch.tensor([3]))
    assert signals.nll.item() == pytest.approx(1.3863, abs=1e-4)
    assert signals.entropy.item() == pytest.approx(1.3863, abs=1e-4)


@pytest.mark.parametrize(
    "vocab, configured, tokens",
    [(151_936, 0, 110), (2**30, 0, 16), (2048, 0, 8192), (2048, 100, 100)],
)
def test_a_chunk_holds_64_mebibytes_of_logits_but_at_least_16_tokens(
    vocab: int, configured: int, tokens: int
) -> None:
    assert chunk_size(vocab, configured) == tokens
