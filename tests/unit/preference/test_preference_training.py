"""A preference training: its reference, its adapters, its measurements, its failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_examples import (
    dealt,
    make_trainer,
    preference,
    preference_job,
    random_rows,
)

from ytrainer_core.config import LoraConfig
from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import home
from ytrainer_core.preference.engine import train_preference
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture
def run(tokenizer: Any, tmp_path: Path) -> Callable[..., TrainResult]:
    """run(model, wanted, job, rows=random_rows(12), name="work") -> TrainResult."""

    def go(model: Any, wanted: Any, job: Any, rows: Any = None, name: str = "work") -> TrainResult:
        batches = dealt(random_rows(12) if rows is None else rows, wanted.config.loss)
        return train_preference(
            model, tokenizer, batches, batches, job, wanted,
            checkpoints=tmp_path / name, log=lambda metrics, step: None,
        )  # fmt: skip

    return go


@pytest.fixture
def lora(make_model: Make) -> Callable[..., Any]:
    """lora(**LoraConfig) -> a tiny model with a new adapter."""

    def make(**fields: Any) -> Any:
        model = make_model()
        torch.manual_seed(0)
        return add_lora(model, LoraConfig(**({"rank": 4} | fields)))

    return make


def losses(result: TrainResult) -> list[float]:
    return [row["loss"] for row in result.history if "loss" in row]


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired", "dpo"])
@pytest.mark.parametrize("weighting", ["none", "nlirg"])
def test_the_adapter_off_and_precomputed_references_train_the_same(
    loss: str, weighting: str, lora: Make, run: Callable[..., TrainResult]
) -> None:
    off, before = lora(), lora()
    fields = {"loss": loss, "token_weighting": weighting}
    first = run(off, preference(**fields), preference_job(4, max_steps=6), name="off")
    second = run(before, preference(True, **fields), preference_job(4, max_steps=6), name="before")
    assert losses(first) == pytest.approx(losses(second), abs=1e-6)
    for (name, ours), theirs in zip(weights_of(off).items(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired", "dpo"])
def test_liked_answers_rise_above_disliked_ones(
    loss: str, rank: int, make_model: Make, lora: Make, run: Callable[..., TrainResult]
) -> None:
    model = lora() if rank else make_model().train()
    result = run(model, preference(True, loss=loss), preference_job(rank, max_steps=40))
    measured = next(row for row in reversed(result.history) if "eval_accuracy" in row)
    assert measured["eval_accuracy"] > 0.95
    assert measured["eval_rewards/margins"] > 1
    logged = [row for row in result.history if "rewards/margins" in row]
    assert logged[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert losses(result)[0] == pytest.approx(0.6931 if loss == "dpo" else 0.5, abs=1e-4)


def test_only_the_adapter_is_trained_and_no_second_one_is_left(
    lora: Make, run: Callable[..., TrainResult]
) -> None:
    model = lora()
    before = weights_of(model)
    run(model, preference(), preference_job(4, max_steps=2))
    assert list(model.peft_config) == ["default"]
    after = weights_of(model)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)


def test_making_the_trainer_leaves_a_pissa_base_as_it_was(
    lora: Make, tokenizer: Any, tmp_path: Path
) -> None:
    model = lora(init="pissa")
    before = weights_of(model)
    wanted = preference(True)
    make_trainer(tmp_path, model, tokenizer, dealt(random_rows(8)), wanted, preference_job(4))
    after = weights_of(model)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert model.peft_config["default"].init_lora_weights == "pissa"


def test_the_reference_is_computed_once_and_found_again_for_another_learning_rate(
    make_model: Make, run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ytrainer_core.preference.kto import PreferenceTrainer

    first = run(make_model(), preference(True), preference_job(max_steps=2), name="one")
    assert len(list((home() / "cache" / "reference").iterdir())) == 1

    def computed(*_: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(PreferenceTrainer, "_reference_of", computed)
    again = run(make_model(), preference(True), preference_job(max_steps=2), name="two")
    assert losses(again) == losses(first)
    run(make_model(), preference(True), preference_job(learning_rate=1e-4, max_steps=2), name="3")
    with pytest.raises(AssertionError, match="computed again"):
        run(make_model(), preference(True, name="other"), preference_job(max_steps=2), name="4")


def test_an_odd_number_of_rows_trains_every_row_once_an_epoch(
    make_model: Make, run: Callable[..., TrainResult]
) -> None:
    """9 rows in batches of 4 are three batches of three, none of one."""
    rows = random_rows(9)
    result = run(make_model(), preference(True), preference_job(num_train_epochs=2), rows)
    assert result.steps == 6
    assert result.target_tokens == 2 * sum(len(row.completion_ids) for row in rows)


@pytest.mark.parametrize(("given", "steps"), [(3, 1), (1, 3), (0, 2)])
def test_accumulation_counts_batches_and_automatic_accumulation_rows(
    given: int, steps: int, make_model: Make, run: Callable[..., TrainResult]
) -> None:
    """Three batches of four; 8 rows a step are two of them."""
    job = preference_job(num_train_epochs=1, gradient_accumulation_steps=given)
    assert run(make_model(), preference(True), job).steps == steps


def test_a_loss_that_is_not_finite_ends_it_with_a_remedy_and_no_checkpoint(
    make_model: Make, run: Callable[..., TrainResult], tmp_path: Path
) -> None:
    job = preference_job(learning_rate=1e30, max_steps=6, save_steps=3, logging_steps=6)
    with pytest.raises(YTrainerError, match=r"not finite at step \d.*Lower optim\.learning_rate"):
        run(make_model(), preference(True), job)
    assert list((tmp_path / "work").glob("checkpoint-*/ytrainer-checkpoint.json")) == []


def test_what_is_logged_has_the_names_that_trl_uses(
    make_model: Make, tokenizer: Any, tmp_path: Path
) -> None:
    seen: dict[str, float] = {}

    def log(metrics: Mapping[str, float], step: int) -> None:
        seen.update(metrics)

    batches = dealt(random_rows(8))
    train_preference(
        make_model(), tokenizer, batches, batches, preference_job(max_steps=2), preference(True),
        checkpoints=tmp_path / "work", log=log,
    )  # fmt: skip
    told = {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
            "logps/rejected", "kl", "loss"}  # fmt: skip
    assert told <= seen.keys()
    assert {f"eval_{name}" for name in told} | {"eval_accuracy"} <= seen.keys()


def test_gradient_checkpointing_trains_the_same(
    lora: Make, run: Callable[..., TrainResult]
) -> None:
    plain = run(lora(), preference(), preference_job(4, max_steps=3), name="plain")
    job = preference_job(4, max_steps=3, gradient_checkpointing=True)
    assert losses(run(lora(), preference(), job, name="less")) == pytest.approx(losses(plain))
