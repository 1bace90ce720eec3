"""The losses: against numbers computed by hand, and against TRL's own trainers on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_examples import (
    MAX_LENGTH,
    dealt,
    make_trainer,
    preference,
    preference_job,
    random_rows,
)

from ytrainer_core.config import LoraConfig, NlirgConfig
from ytrainer_core.objectives.nlirg import nlirg_weights
from ytrainer_core.preference.loss import (
    apo_zero_losses,
    dpo_losses,
    kto_losses,
    log_ratios,
    reference_point,
)
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]
LIKED = torch.tensor([True, False])


def test_kto_by_hand() -> None:
    """beta (r - z) is 1 for the liked row, beta (z - r) is -2 for the other."""
    ratios, z = torch.tensor([13.0, 23.0]), torch.tensor(3.0)
    expected = [1 - 1 / (1 + math.exp(-1)), 1 - 1 / (1 + math.exp(2))]
    assert kto_losses(ratios, LIKED, z, 0.1).tolist() == pytest.approx(expected)


def test_apo_zero_by_hand() -> None:
    ratios = torch.tensor([10.0, 20.0])
    expected = [1 - 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]
    assert apo_zero_losses(ratios, LIKED, 0.1).tolist() == pytest.approx(expected)


def test_dpo_by_hand() -> None:
    found = dpo_losses(torch.tensor([5.0, 0.0]), torch.tensor([-5.0, 20.0]), 0.1)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))])


def test_the_reference_point_is_a_mean_that_is_never_below_zero_and_has_no_gradient() -> None:
    ratios = torch.tensor([1.0, 4.0], requires_grad=True)
    assert reference_point(ratios).item() == 2.5 and not reference_point(ratios).requires_grad
    assert reference_point(-ratios).item() == 0.0


def test_a_log_ratio_counts_the_tokens_of_the_answer_alone() -> None:
    logps = torch.tensor([[-9.0, -1.0, -2.0], [-1.0, -1.0, -5.0]])
    reference = torch.tensor([[-1.0, -3.0, -2.5], [-2.0, -2.0, -1.0]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    assert log_ratios(logps, reference, mask, "none").tolist() == [2.5, 2.0]


def test_nlirg_weighs_each_term_by_the_policys_own_loss_and_lets_no_gradient_through() -> None:
    """Weights: 0.5 at 1.2 nats, 0.955 at 3 nats, 0 from 15 nats on."""
    logps = torch.tensor([[-1.2, -3.0, -15.0]], requires_grad=True)
    reference, mask = torch.tensor([[-2.2, -1.0, -1.0]]), torch.ones(1, 3)
    found = log_ratios(logps, reference, mask, "nlirg")
    weights = nlirg_weights(torch.tensor([1.2, 3.0, 15.0]), NlirgConfig())
    assert weights.tolist() == pytest.approx([0.5, 0.9552, 0.0], abs=1e-3)
    assert found.item() == pytest.approx(0.5 * 1.0 + 0.9552 * -2.0, abs=1e-3)
    found.sum().backward()
    assert logps.grad is not None and torch.allclose(logps.grad[0], weights)


def moved(model: Any) -> Any:
    """A model that is no longer its reference: every trained weight a little off."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def our_loss(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, batch, False)
    loss.backward()
    return loss.item(), gradients(trainer.model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def lora_model(make_model: Make) -> Any:
    model = make_model()
    torch.manual_seed(0)
    return add_lora(model, LoraConfig(rank=4))


def as_trl(rows: Any) -> Any:
    """Our columns as TRL's own trainer makes them."""
    import datasets

    names = ("prompt_ids", "completion_ids", "KL_completion_ids", "label")
    return datasets.Dataset.from_dict({n: rows[n] for n in names if n in rows.column_names})


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_loss_gradients_and_metrics_are_trls_on_the_same_batch(
    loss: str, make_model: Make, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's trainer as it is, but for its tokenization, on a moved LoRA."""
    from trl import KTOConfig, KTOTrainer

    monkeypatch.setattr(KTOTrainer, "_prepare_dataset", lambda self, dataset, *rest: dataset)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    train = dealt(random_rows(4), loss)
    arguments = KTOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=4, loss_type=loss, beta=0.3,
        desirable_weight=1.5, undesirable_weight=0.7, max_length=MAX_LENGTH, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, remove_unused_columns=False,
    )  # fmt: skip
    reference = make_model()
    theirs = KTOTrainer(
        model=lora_model(make_model), ref_model=reference, args=arguments,
        train_dataset=as_trl(train.rows), processing_class=tokenizer,
    )  # fmt: skip
    moved(theirs.model)
    batch = next(iter(theirs.get_train_dataloader()))
    theirs.model.train()
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()
    wanted = preference(loss=loss, beta=0.3, weights=(1.5, 0.7))
    ours = make_trainer(
        tmp_path, lora_model(make_model), tokenizer, train, wanted, preference_job(4)
    )
    moved(ours.model)
    found, gradient = our_loss(ours)
    assert found == pytest.approx(expected.item(), abs=1e-6)
    for name, value in gradients(theirs.model).items():
        torch.testing.assert_close(gradient[name], value, atol=1e-6, rtol=1e-4)
    logged: dict[str, float] = {"loss": found}
    ours.log(logged)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
                 "logps/rejected", "kl"):  # fmt: skip
        (told,) = theirs._metrics["train"][name]
        assert logged[name] == pytest.approx(told, abs=1e-5), name
    assert abs(logged["rewards/margins"]) > 1e-3  # the models do differ


def test_dpo_is_trls_on_the_same_pairs(
    make_model: Make, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from trl import DPOConfig, DPOTrainer

    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda self, dataset, *rest: dataset)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    rows = random_rows(8)
    flat = [replace(row, prompt_ids=rows[i // 2 * 2].prompt_ids) for i, row in enumerate(rows)]
    train = dealt(flat, "dpo")
    columns = {
        "prompt_ids": [row["prompt_ids"] for row in train.rows][::2],
        "chosen_ids": [row["completion_ids"] for row in train.rows][::2],
        "rejected_ids": [row["completion_ids"] for row in train.rows][1::2],
    }
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=4, beta=0.3, use_cpu=True,
        max_length=MAX_LENGTH, report_to="none", bf16=False, gradient_checkpointing=False,
        remove_unused_columns=False,
    )  # fmt: skip
    theirs = DPOTrainer(
        model=lora_model(make_model), ref_model=make_model(), args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer,
    )  # fmt: skip
    moved(theirs.model)
    theirs.model.train()
    expected = theirs.compute_loss(
        theirs.model, theirs.data_collator([dict(row) for row in theirs.train_dataset])
    )
    wanted = preference(loss="dpo", beta=0.3)
    ours = make_trainer(
        tmp_path, lora_model(make_model), tokenizer, train, wanted, preference_job(4)
    )
    moved(ours.model)
    assert our_loss(ours)[0] == pytest.approx(expected.item(), abs=1e-6)
