"""The chunked loss is the plain one: same loss, same gradients, without the full logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from objective_examples import PlainLoss, plain_logits, plain_loss
from torch import Tensor

from ytrainer_core.config import NlirgConfig, ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES, token_weights
from ytrainer_core.objectives.linear_nll import TokenLoss, linear_token_loss
from ytrainer_core.objectives.projection import Projection, chunk_size
from ytrainer_core.objectives.soft_target import SoftTarget

TOKENS, WIDTH, RANK, VOCAB = 23, 16, 3, 50
CHUNKS = [1, 7, 22, 23, 24, 1000, 0]

CONFIGS = {name: ObjectiveConfig(name=name) for name in OBJECTIVES}
CONFIGS["nlirg zero"] = ObjectiveConfig(name="nlirg", nlirg=NlirgConfig(easy_floor="zero"))


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """hidden, head, bias and an adapter's low and up; losses from 0 to over 15 nats."""
    torch.manual_seed(0)
    return {
        "hidden": torch.randn(TOKENS, WIDTH) * 1.2,
        "head": torch.randn(VOCAB, WIDTH),
        "bias": torch.randn(VOCAB),
        "low": torch.randn(TOKENS, RANK) * 0.5,
        "up": torch.randn(VOCAB, RANK),
    }


@pytest.fixture
def labels(tensors: dict[str, Tensor]) -> Tensor:
    """Random tokens, which surprise the head, and every third the one that it expects."""
    labels = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))
    labels[::3] = plain_logits(**tensors).argmax(-1)[::3]
    return labels


def leaves_of(tensors: dict[str, Tensor], frozen: tuple[str, ...] = ()) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone().requires_grad_(name not in frozen)
        for name, tensor in tensors.items()
    }


def projection_of(leaves: dict[str, Tensor], scale: float = 1.0, cap: float = 0.0) -> Projection:
    pairs = [(leaves["hidden"], leaves["head"])]
    if "low" in leaves:
        pairs.append((leaves["low"], leaves["up"]))
    return Projection(tuple(pairs), leaves.get("bias"), cap).scaled(scale)


def fused(
    projection: Projection, labels: Tensor, config: ObjectiveConfig, **more: Any
) -> TokenLoss:
    return linear_token_loss(
        projection,
        labels,
        partial(token_weights, config=config),
        top_tokens=config.eaft.top_tokens if config.name == "eaft" else 0,
        **more,
    )


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, leaf in expected.items():
        torch.testing.assert_close(
            found[name].grad,
            leaf.grad,
            rtol=1e-5,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


HEADS = {
    "plain": (("hidden", "head"), {}),
    "bias": (("hidden", "head", "bias"), {}),
    "scale": (("hidden", "head", "bias"), {"scale": 0.3}),
    "cap": (("hidden", "head"), {"cap": 5.0}),
    "adapter": (("hidden", "head", "low", "up"), {}),
    "all": (("hidden", "head", "bias", "low", "up"), {"scale": 1.7, "cap": 6.0}),
}


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest, tensors: dict[str, Tensor]) -> Iterator[Any]:
    """(tensors of a kind of head, its scale and cap)."""
    names, shape = HEADS[request.param]
    yield {name: tensors[name] for name in names}, shape


def test_the_losses_of_this_file_lie_in_every_part_of_the_curve(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    nll = fused(projection_of(tensors), labels, CONFIGS["cross_entropy"]).nll
    for low, high in [(0, 3), (3, 15), (15, 100)]:
        assert ((nll > low) & (nll < high)).any()


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_loss_and_every_gradient_equal_autograd_through_full_logits(
    chunk: int, config: ObjectiveConfig, head: Any, labels: Tensor
) -> None:
    tensors, shape = head
    expected = leaves_of(tensors)
    plain = plain_loss(plain_logits(**expected, **shape), labels, config)
    plain.loss.backward()
    found = leaves_of(tensors)
    result = fused(
        projection_of(found, **shape),
        labels,
        config,
        chunk_tokens=chunk,
        median_nll=plain.nll.median(),
    )
    result.loss.backward()
    torch.testing.assert_close(result.loss, plain.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.nll, plain.nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.weights, plain.weights, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(found, expected)


def test_what_comes_after_the_loss_scales_every_gradient(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    """As dividing by the tokens of the batch, or a scaler for fp16, does."""
    expected, found = leaves_of(tensors), leaves_of(tensors)
    config = CONFIGS["nlirg"]
    (plain_loss(plain_logits(**expected), labels, config).loss / 7).backward()
    (fused(projection_of(found), labels, config).loss / 7).backward()
    assert_equal_gradients(found, expected)


@pytest.mark.parametrize("chunk", [1, 7, 0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("token_coefficient", [1.0, 0.3, 0.0])
def test_a_soft_target_adds_its_divergence_and_the_gradient_of_it(
    chunk: int, temperature: float, token_coefficient: float, head: Any, labels: Tensor
) -> None:
    """The reference has another width, a bias, a factor and a cap of its own."""
    tensors, shape = head
    torch.manual_seed(5)
    reference = {"hidden": torch.randn(TOKENS, 8), "head": torch.randn(VOCAB, 8)}
    reference["bias"] = torch.randn(VOCAB)
    own = {"scale": 0.8, "cap": 4.0}
    config = CONFIGS["dft"]
    expected, found = leaves_of(tensors), leaves_of(tensors)
    plain = plain_loss(
        plain_logits(**expected, **shape),
        labels,
        config,
        reference=plain_logits(**reference, **own),
        coefficient=0.7,
        temperature=temperature,
        token_coefficient=token_coefficient,
    )
    plain.loss.backward()
    result = fused(
        projection_of(found, **shape),
        labels,
        config,
        chunk_tokens=chunk,
        soft=SoftTarget(projection_of(reference, **own), 0.7, temperature),
        token_coefficient=token_coefficient,
    )
    result.loss.backward()
    torch.testing.assert_close(result.loss, plain.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.divergence, plain.divergence, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(found, expected)


def test_the_divergence_from_oneself_is_zero_and_pushes_nowhere(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    leaves = leaves_of(tensors)
    soft = SoftTarget(projection_of(tensors), 1.0, 2.0)
    config = CONFIGS["cross_entropy"]
    result = fused(projection_of(leaves), labels, config, soft=soft, token_coefficient=0.0)
    result.loss.backward()
    torch.testing.assert_close(result.divergence, torch.zeros(TOKENS), rtol=0, atol=1e-5)
    assert all(leaf.grad.abs().max() < 1e-5 for leaf in leaves.values())


def test_the_divergence_of_two_coins_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = ln 2 - (2 ln 2 - 3/4 ln 3) = 0.13081 nats."""
    model = Projection(((torch.zeros(1, 1), torch.zeros(2, 1)),))
    reference = Projection(((torch.ones(1, 1), torch.tensor([[3.0], [1.0]]).log()),))
    result = fused(
        model, torch.tensor([0]), CONFIGS["cross_entropy"], soft=SoftTarget(reference, 1.0)
    )
    assert result.divergence.item() == pytest.approx(0.13081, abs=1e-5)
    assert result.loss.item() == pytest.approx(0.69315 + 0.13081, abs=1e-5)


def test_a_given_weight_of_zero_silences_a_token_but_not_its_divergence(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    soft = SoftTarget(projection_of(tensors, scale=0.5), 0.5)
    result = fused(
        projection_of(tensors),
        labels,
        CONFIGS["cross_entropy"],
        given=torch.zeros(TOKENS),
        soft=soft,
    )
    assert result.divergence.sum() > 1
    torch.testing.assert_close(result.loss, 0.5 * result.divergence.sum())


@pytest.mark.parametrize("chunk", [1, 7, 0])
def test_weights_given_beforehand_are_cut_into_chunks_with_the_tokens(
    chunk: int, tensors: dict[str, Tensor], labels: Tensor
) -> None:
    given = torch.linspace(0, 2, TOKENS)
    expected, found = leaves_of(tensors), leaves_of(tensors)
    config = CONFIGS["nlirg"]
    plain_loss(plain_logits(**expected), labels, config, given=given).loss.backward()
    fused(projection_of(found), labels, config, given=given, chunk_tokens=chunk).loss.backward()
    assert_equal_gradients(found, expected)


@pytest.mark.parametrize("chunk", [1, 7, 0])
def test_the_entropy_is_that_of_the_full_distribution_and_changes_nothing_else(
    chunk: int, head: Any, labels: Tensor
) -> None:
    tensors, shape = head
    without, found = leaves_of(tensors), leaves_of(tensors)
    config = CONFIGS["nlirg"]
    plain = fused(projection_of(without, **shape), labels, config, chunk_tokens=chunk)
    plain.loss.backward()
    result = fused(projection_of(found, **shape), labels, config, chunk_tokens=chunk, entropy=True)
    result.loss.backward()
    distribution = torch.distributions.Categorical(logits=plain_logits(**tensors, **shape))
    torch.testing.assert_close(result.entropy, distribution.entropy(), rtol=1e-5, atol=1e-5)
    assert plain.entropy is None and torch.equal(result.nll, plain.nll)
    assert_equal_gradients(found, without)


def test_top_entropy_is_that_of_the_likeliest_tokens_renormalised() -> None:
    """Three tokens of (1/2, 1/4, 1/4), the likeliest two: H(2/3, 1/3) = 0.63651 nats."""
    seen = []

    def weigh(tokens: Any) -> Tensor:
        seen.append(tokens.top_entropy.item())
        return torch.ones_like(tokens.nll)

    logits = torch.tensor([[0.5], [0.25], [0.25]]).log()
    for top_tokens in (2, 3, 20):
        projection = Projection(((torch.ones(1, 1), logits),))
        linear_token_loss(projection, torch.tensor([0]), weigh, top_tokens=top_tokens)
    assert seen == pytest.approx([0.63651, 1.03972, 1.03972], abs=1e-5)


@pytest.mark.parametrize("frozen", ["hidden", "head", "bias", "low", "up"])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(
    frozen: str, tensors: dict[str, Tensor], labels: Tensor
) -> None:
    expected, found = leaves_of(tensors), leaves_of(tensors, frozen=(frozen,))
    plain_loss(plain_logits(**expected), labels, CONFIGS["nlirg"]).loss.backward()
    fused(projection_of(found), labels, CONFIGS["nlirg"], chunk_tokens=7).loss.backward()
    assert found.pop(frozen).grad is None
    expected.pop(frozen)
    assert_equal_gradients(found, expected)


def test_with_everything_frozen_there_is_a_loss_and_no_gradient(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    result = fused(projection_of(tensors), labels, CONFIGS["cross_entropy"], chunk_tokens=7)
    expected = plain_loss(plain_logits(**tensors), labels, CONFIGS["cross_entropy"])
    torch.testing.assert_close(result.loss, expected.loss)
    assert not result.loss.requires_grad


def test_without_gradients_none_is_formed_even_for_weights_that_want_one(
    tensors: dict[str, Tensor], labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ytrainer_core.objectives import linear_nll

    def forbidden(*args: Any) -> None:
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr(linear_nll._Gradients, "add", forbidden)
    with torch.no_grad():
        result = fused(projection_of(leaves_of(tensors)), labels, CONFIGS["nlirg"])
    assert not result.loss.requires_grad


def test_a_second_backward_is_refused_as_the_gradient_is_used_up(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    result = fused(projection_of(leaves_of(tensors)), labels, CONFIGS["nlirg"])
    result.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up"):
        result.loss.backward()


def test_nothing_but_the_loss_carries_a_gradient(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    soft = SoftTarget(projection_of(leaves_of(tensors)), 1.0)
    result = fused(
        projection_of(leaves_of(tensors)), labels, CONFIGS["nlirg"], entropy=True, soft=soft
    )
    assert result.loss.requires_grad
    for tensor in (result.nll, result.weights, result.entropy, result.divergence):
        assert not tensor.requires_grad and tensor.dtype == torch.float32


def plain_of(tensors: dict[str, Tensor], labels: Tensor, name: str) -> tuple[PlainLoss, Any]:
    leaves = leaves_of({name: tensor.float() for name, tensor in tensors.items()})
    plain = plain_loss(plain_logits(**leaves), labels, CONFIGS[name])
    plain.loss.backward()
    return plain, leaves


@pytest.mark.parametrize("name", ["cross_entropy", "nlirg"])
def test_bf16_is_the_float32_result_to_its_own_precision(
    name: str, tensors: dict[str, Tensor], labels: Tensor
) -> None:
    low = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    plain, expected = plain_of(low, labels, name)
    leaves = leaves_of(low)
    result = fused(projection_of(leaves), labels, CONFIGS[name], chunk_tokens=7)
    result.loss.backward()
    assert result.loss.dtype == result.nll.dtype == torch.float32
    torch.testing.assert_close(result.loss.detach(), plain.loss.detach(), rtol=1e-2, atol=0)
    for key, leaf in leaves.items():
        assert leaf.grad.dtype == torch.bfloat16
        grad = expected[key].grad
        assert (leaf.grad.float() - grad).norm() < 2e-2 * grad.norm()


def test_a_float32_head_takes_bf16_hidden_states_as_autocast_gives_them(
    tensors: dict[str, Tensor], labels: Tensor
) -> None:
    mixed = {
        name: tensor.bfloat16() if name in ("hidden", "low") else tensor
        for name, tensor in tensors.items()
    }
    _, expected = plain_of(mixed, labels, "cross_entropy")
    leaves = leaves_of(mixed)
    fused(projection_of(leaves), labels, CONFIGS["cross_entropy"], chunk_tokens=7).loss.backward()
    for key, leaf in leaves.items():
        assert leaf.grad.dtype == mixed[key].dtype
        grad = expected[key].grad
        assert (leaf.grad.float() - grad).norm() < 2e-2 * grad.norm()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_batch_without_targets_has_loss_zero_and_gradient_zero(
    name: str, tensors: dict[str, Tensor], labels: Tensor
) -> None:
    empty = {
        key: tensor[:0] if key in ("hidden", "low") else tensor for key, tensor in tensors.items()
    }
    leaves = leaves_of(empty)
    result = fused(
        projection_of(leaves, scale=0.5, cap=3.0),
        labels[:0],
        CONFIGS[name],
        median_nll=torch.tensor(1.0),
        entropy=True,
        soft=SoftTarget(projection_of(empty), 1.0),
    )
    result.loss.backward()
    assert result.loss.item() == 0
    assert result.nll.shape == result.weights.shape == result.entropy.shape == (0,)
    assert all(leaf.grad is not None and leaf.grad.abs().sum() == 0 for leaf in leaves.values())


def test_a_token_beyond_reach_has_a_finite_loss_and_gradient() -> None:
    """Its probability, exp(-200), is 0 in float32; its loss is not."""
    hidden = torch.ones(1, 1, requires_grad=True)
    projection = Projection(((hidden, torch.tensor([[100.0], [-100.0]])),))
    result = fused(projection, torch.tensor([1]), CONFIGS["cross_entropy"])
    result.loss.backward()
    assert result.loss.item() == pytest.approx(200.0)
    assert hidden.grad.item() == pytest.approx(200.0)  # 100 x 1 - (-100) x 1


@pytest.mark.parametrize(
    "vocab, configured, tokens",
    [(151_936, 0, 110), (2**30, 0, 16), (2048, 0, 8192), (2048, 100, 100)],
)
def test_a_chunk_holds_64_mebibytes_of_logits_but_at_least_16_tokens(
    vocab: int, configured: int, tokens: int
) -> None:
    assert chunk_size(vocab, configured) == tokens


@pytest.mark.parametrize("count", [0, 5])
def test_the_logits_of_all_tokens_never_exist_together(
    count: int, tensors: dict[str, Tensor], labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    make: Callable[..., Tensor] = Projection.logits

    def logits(self: Projection, part: slice, buffer: Tensor) -> Tensor:
        shapes.append(tuple(buffer.shape))
        return make(self, part, buffer)

    monkeypatch.setattr(Projection, "logits", logits)
    fused(projection_of(tensors), labels, CONFIGS["nlirg"], chunk_tokens=count)
    assert set(shapes) == {(count or TOKENS, VOCAB)}
