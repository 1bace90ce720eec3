"""A model with an objective attached: labels in, the objective's loss out; else as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES, Tokens
from ytrainer_core.objectives.attach import (
    attach_objective,
    causal_lm,
    detach,
    model_nll,
    model_signals,
    trained_positions,
)
from ytrainer_core.training.model import add_lora

Rows = Callable[..., list[dict[str, list[int]]]]


@pytest.fixture
def batch(make_rows: Rows) -> dict[str, torch.Tensor]:
    """Two packs of one row each, of 9 and 6 tokens: 7 + 4 targets."""
    return collate_packs([[row] for row in make_rows([9, 6])], pad_token_id=0)


@pytest.fixture
def expected_nll(
    make_rows: Rows, make_model: Callable[..., Any], plain_signals: Callable[..., Any]
) -> torch.Tensor:
    model = make_model()
    return torch.cat([plain_signals(model, row)[0] for row in make_rows([9, 6])])


@pytest.mark.parametrize("name", ["cross_entropy", "nlirg"])
def test_the_loss_is_the_weighted_mean_over_the_targets(
    name: str,
    make_model: Callable[..., Any],
    batch: dict[str, torch.Tensor],
    expected_nll: torch.Tensor,
) -> None:
    model, config = make_model(), ObjectiveConfig(name=name)
    attach_objective(model, config)
    output = model(**batch)
    weights = OBJECTIVES[name].weigh(Tokens(expected_nll), config)
    torch.testing.assert_close(output.nll, expected_nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.weights, weights, rtol=1e-5, atol=1e-5)
    assert output.loss.item() == pytest.approx((weights * expected_nll).sum().item() / 11, rel=1e-5)


def test_the_denominator_is_that_of_the_global_batch_where_it_is_given(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    loss = model(**batch, num_items_in_batch=torch.tensor(44)).loss
    assert loss.item() == pytest.approx(expected_nll.sum().item() / 44, rel=1e-5)


def test_cross_entropy_equals_the_models_own_loss(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    (row,) = make_rows([12])
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    model = make_model()
    own = model(input_ids=ids, labels=labels).loss
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, own)


def test_gradients_reach_every_weight_as_they_do_without_chunks(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], make_rows: Rows
) -> None:
    """The head is tied to the embedding, whose gradient is the sum of both uses."""
    model, other = make_model(), make_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    attach_objective(model, ObjectiveConfig(name="cross_entropy", chunk_tokens=4))
    model(**batch).loss.backward()
    losses = []
    for row in make_rows([9, 6]):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        losses.append(other(input_ids=ids, labels=labels, num_items_in_batch=11).loss)
    sum(losses).backward()
    for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_without_labels_the_logits_are_as_before(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    model = make_model()
    ids = torch.tensor([make_rows([8])[0]["input_ids"]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        answer = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4)
        attach_objective(model, ObjectiveConfig())
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
        assert torch.equal(
            model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4), answer
        )


def test_autocast_computes_in_bf16_and_reduces_in_float32(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert output.nll.dtype == torch.float32
    assert 0 < (output.nll - expected_nll).abs().max() < 0.2  # bf16 was used, and is close
    assert model.lm_head.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_loss_that_is_not_finite_is_returned_as_such(
    name: str, make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    """Whoever steps on it checks it; asking here would make the host wait for the device."""
    model = make_model()
    model.model.norm.weight.data[0] = float("nan")
    attach_objective(model, ObjectiveConfig(name=name), reference=make_model())
    output = model(**batch, token_weights=torch.ones(batch["labels"].shape))
    assert not torch.isfinite(output.loss)


def test_adapters_are_seen_through_and_trained(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    base = make_model()
    model = add_lora(base, LoraConfig(rank=4))
    assert causal_lm(model) is base
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected_nll.mean().item(), rel=1e-5)
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == {name for name, p in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("name", ["cross_entropy", "dft"])
def test_known_targets_give_the_same_loss_and_gradients_as_found_ones(
    name: str, make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    found, known = make_model(), make_model()
    for model in (found, known):
        attach_objective(model, ObjectiveConfig(name=name))
    batch = {k: v for k, v in batch.items() if k != "target_positions"}
    positions = trained_positions(batch["labels"])
    assert positions.tolist() == [*range(1, 8), *range(10, 14)]  # 9 wide, prompts of 2
    first, second = found(**batch), known(**batch, target_positions=positions)
    assert torch.equal(first.loss, second.loss)
    first.loss.backward()
    second.loss.backward()
    for a, b in zip(found.parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


class _NoQuestions(TorchDispatchMode):
    """Raises where an operation makes the host wait for the device's values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")
        if func.overloadpacket.__name__ in asks:
            raise AssertionError(f"{func} makes the host wait")
        return func(*args, **(kwargs or {}))


def test_the_watch_of_this_file_sees_a_question_to_the_device() -> None:
    with _NoQuestions(), pytest.raises(AssertionError, match="wait"):
        torch.ones(1).item()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_with_known_targets_nothing_after_the_body_makes_the_host_wait_for_the_device(
    name: str, make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name=name, chunk_tokens=4), reference=make_model())
    batch = {"target_positions": trained_positions(batch["labels"]), **batch}
    stored = model.model(input_ids=batch["input_ids"], use_cache=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.model), "forward", lambda self, **inputs: stored)
        with _NoQuestions():
            output = model(
                **batch,
                token_weights=torch.ones(batch["labels"].shape),
                num_items_in_batch=torch.tensor(11),
                return_entropy=True,
            )
            output.loss.backward()
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", ["cross_entropy", "nlirg", "flow", "stm"])
def test_a_rows_own_token_weights_stand_at_its_labels(
    name: str,
    make_model: Callable[..., Any],
    batch: dict[str, torch.Tensor],
    expected_nll: torch.Tensor,
) -> None:
    model, config = make_model(), ObjectiveConfig(name=name)
    attach_objective(model, config)
    given = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(3))
    output = model(**batch, token_weights=given)
    at_labels = torch.cat([given[0, 2:9], given[1, 2:6]])
    weights = OBJECTIVES[name].weigh(Tokens(expected_nll), config) * at_labels
    torch.testing.assert_close(output.weights, weights, rtol=1e-5, atol=1e-5)
    assert output.loss.item() == pytest.approx((weights * expected_nll).sum().item() / 11, rel=1e-5)


@pytest.mark.parametrize("name", ["flow", "stm"])
def test_an_objective_that_weighs_by_the_base_refuses_to_train_without_its_weights(
    name: str, make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name=name))
    with pytest.raises(ValueError, match=f"{name}.*token_weights"):
        model(**batch)


def test_talr_takes_the_median_it_is_given_or_that_of_the_micro_batch(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    model, config = make_model(), ObjectiveConfig(name="talr", chunk_tokens=3)
    attach_objective(model, config)
    for median, kwargs in [
        (expected_nll.median(), {}),
        (torch.tensor(2.0), {"median_nll": torch.tensor(2.0)}),
    ]:
        expected = torch.exp(-expected_nll / median).clamp(min=0.01)
        found = model(**batch, **kwargs).weights
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_eaft_takes_the_entropy_of_the_likeliest_tokens(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    (row,) = make_rows([12])
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    model = make_model()
    top = model(input_ids=ids).logits[0, 1:-1].topk(20).values
    expected = torch.distributions.Categorical(logits=top).entropy() / 3
    attach_objective(model, ObjectiveConfig(name="eaft"))
    weights = model(input_ids=ids, labels=labels).weights
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-5)


def test_the_entropy_is_returned_where_it_is_asked_for(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig())
    expected = model_signals(model, batch["input_ids"], batch["labels"]).entropy
    assert model(**batch).entropy is None
    found = model(**batch, return_entropy=True).entropy
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_further_inputs_reach_the_body_as_they_are(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig())
    seen: dict[str, Any] = {}
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    lengths = torch.tensor([0, 9])
    model(**batch, cu_seq_lens_q=lengths, max_length_q=9)
    assert seen["cu_seq_lens_q"] is lengths and seen["max_length_q"] == 9
    assert seen["attention_mask"] is None and seen["use_cache"] is False
    assert "token_weights" not in seen and "labels" not in seen
    model(**batch, attention_mask=torch.ones_like(batch["input_ids"]))
    assert seen["attention_mask"] is not None


def test_a_micro_batch_without_targets_has_loss_zero_and_gradients(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    for name in sorted(OBJECTIVES):
        model = make_model()
        attach_objective(model, ObjectiveConfig(name=name), reference=make_model())
        ignored = {**batch, "labels": torch.full_like(batch["labels"], -100)}
        ignored.pop("target_positions", None)
        weights = torch.ones(batch["labels"].shape)
        output = model(**ignored, token_weights=weights, num_items_in_batch=torch.tensor(5))
        output.loss.backward()
        assert output.loss.item() == 0 and output.nll.shape == (0,)
        assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in model.parameters())


def test_attaching_again_replaces_the_objective_and_detaching_gives_the_model_back(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    plain = model.forward
    alone = make_model()
    attach_objective(alone, ObjectiveConfig(name="dft"))
    attach_objective(model, ObjectiveConfig(name="nlirg"))
    attach_objective(model, ObjectiveConfig(name="dft"))
    assert torch.equal(model(**batch).loss, alone(**batch).loss)
    detach(model)
    detach(model)
    assert model.forward == plain and "forward" not in model.__dict__
    assert "_objective" not in model.__dict__


def test_a_forward_that_someone_else_put_there_is_called_and_given_back(
    make_model: Callable[..., Any], make_rows: Rows
) -> None:
    model, calls = make_model(), []
    plain = model.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return plain(*args, **kwargs)

    model.forward = hooked
    attach_objective(model, ObjectiveConfig())
    calls.clear()
    model(input_ids=torch.tensor([make_rows([8])[0]["input_ids"]]))
    assert len(calls) == 1
    detach(model)
    assert model.forward is hooked


def test_a_deep_copy_trains_itself(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = make_model()
    attach_objective(model, ObjectiveConfig(name="cross_entropy"))
    twin = copy.deepcopy(model)
    twin.model.norm.weight.data *= 2
    assert twin(**batch).loss != model(**batch).loss
    twin(**batch).loss.backward()
    assert twin.lm_head.weight.grad is not None and model.lm_head.weight.grad is None


@pytest.mark.parametrize("name", ["logit_scale", "logits_scaling", "final_logit_softcapping"])
def test_a_model_whose_logits_are_not_what_its_config_says_is_refused(
    name: str, make_model: Callable[..., Any]
) -> None:
    """Qwen3 neither scales nor caps: the config is wrong, or the model does what we do not know."""
    model = make_model()
    setattr(model.config, name, 3.0)
    with pytest.raises(ConfigError, match=r"qwen3.*logits"):
        attach_objective(model, ObjectiveConfig())


def test_the_check_at_attaching_leaves_modes_and_random_states_as_they_were(
    make_model: Callable[..., Any],
) -> None:
    model = make_model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    attach_objective(model, ObjectiveConfig())
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes


def test_a_model_whose_weights_are_elsewhere_is_attached_unchecked(
    make_model: Callable[..., Any],
) -> None:
    attach_objective(make_model().to("meta"), ObjectiveConfig())
    sharded = make_model()
    sharded.config.logit_scale = 3.0  # would be refused
    next(sharded.parameters()).ds_id = 0
    attach_objective(sharded, ObjectiveConfig())


def test_losses_alone_are_those_of_the_signals(
    make_model: Callable[..., Any], batch: dict[str, torch.Tensor], expected_nll: torch.Tensor
) -> None:
    torch.testing.assert_close(model_nll(make_model(), **batch), expected_nll)


def test_signals_of_a_padded_batch_are_those_of_its_rows(
    make_model: Callable[..., Any],
    make_rows: Rows,
    batch: dict[str, torch.Tensor],
    plain_signals: Callable[..., Any],
) -> None:
    model = make_model()
    signals = model_signals(model, batch["input_ids"], batch["labels"])
    rows = [plain_signals(model, row) for row in make_rows([9, 6])]
    for found, parts in zip(
        (signals.nll, signals.entropy, signals.top_token), zip(*rows, strict=True), strict=True
    ):
        torch.testing.assert_close(found, torch.cat(parts), rtol=1e-5, atol=1e-5)
