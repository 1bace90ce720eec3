"""The loop: what it logs, what it counts, what it changes, and how it fails."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig
from ytrainer_core.errors import DataError, YTrainerError
from ytrainer_core.scoring.signals import mean_nll
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]


@pytest.fixture
def run(tokenizer: Any, make_job: Make, tmp_path: Path) -> Make:
    """run(model, rows, eval_rows=, log=, **job) -> TrainResult."""

    def go(
        model: Any,
        rows: Any,
        *,
        eval_rows: Any = (),
        log: Any = lambda metrics, step: None,
        **job: Any,
    ) -> TrainResult:
        return train(
            model,
            tokenizer,
            rows,
            make_job(**job),
            checkpoints=tmp_path / "checkpoints",
            log=log,
            eval_rows=eval_rows,
        )

    return go


def test_training_lowers_the_loss_on_what_it_saw(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    model, rows = make_model(), make_rows([20, 20, 20, 20])
    before = mean_nll(model, rows)
    run(model, rows, num_train_epochs=5, optim={"learning_rate": 1e-2})
    assert mean_nll(model, rows) < before - 1


def test_steps_targets_and_log_rows_are_counted(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """5 packs of 20 tokens with 18 targets, accumulated by 2: 3 steps an epoch."""
    logged: list[int] = []
    result = run(
        make_model(),
        make_rows([20] * 5),
        num_train_epochs=2,
        gradient_accumulation_steps=2,
        log=lambda metrics, step: logged.append(step) if "loss" in metrics else None,
    )
    assert (result.steps, result.target_tokens, result.resumed_from) == (6, 2 * 5 * 18, 0)
    assert logged == [1, 2, 3, 4, 5, 6]
    assert len(result.nll_first) == len(result.nll_last) == 180


def test_the_first_log_row_is_the_model_before_training(
    run: Make, make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    """Loss is weight x nll over targets; nll is unweighted; mean_weight is between."""
    model, rows = make_model(), make_rows([20, 12])
    nll = torch.cat([plain_signals(model, row)[0] for row in rows])
    first = run(model, rows, max_steps=1).history[0]
    assert first["nll"] == pytest.approx(nll.mean().item(), rel=1e-5)
    assert first["loss"] != pytest.approx(first["nll"], rel=0.01)
    from ytrainer_core.config import NlirgConfig
    from ytrainer_core.objectives.nlirg import nlirg_weights

    weights = nlirg_weights(nll, NlirgConfig())
    assert first["mean_weight"] == pytest.approx(weights.mean().item(), rel=1e-4)
    assert first["loss"] == pytest.approx((weights * nll).mean().item(), rel=1e-3)
    assert first["target_tokens_per_second"] > 0


def test_max_steps_overrides_epochs(run: Make, make_model: Make, make_rows: Make) -> None:
    assert run(make_model(), make_rows([20] * 3), num_train_epochs=9, max_steps=4).steps == 4


@pytest.mark.parametrize(
    "optim, rates",
    [
        ({"lr_scheduler": "constant"}, [4, 4, 4, 4]),
        ({"lr_scheduler": "constant", "warmup_steps": 2}, [0, 2, 4, 4]),
        ({"lr_scheduler": "constant", "warmup_ratio": 0.5}, [0, 2, 4, 4]),
        ({"lr_scheduler": "linear"}, [4, 3, 2, 1]),
        ({"lr_scheduler": "polynomial", "end_learning_rate": 2e-3}, [4, 3.5, 3, 2.5]),
        (
            {"lr_scheduler": "polynomial", "polynomial_power": 2.0, "end_learning_rate": 0.0},
            [4, 2.25, 1, 0.25],
        ),
        ({"lr_scheduler": "cosine"}, [4, 3.4142, 2, 0.5858]),
        ({"lr_scheduler": "cosine", "cosine_waves": 1.0}, [4, 2, 0, 2]),
    ],
)
def test_the_learning_rates_of_four_steps_in_thousandths(
    optim: dict[str, Any], rates: list[float], run: Make, make_model: Make, make_rows: Make
) -> None:
    result = run(make_model(), make_rows([20]), max_steps=4, optim={"learning_rate": 4e-3} | optim)
    found = [row["learning_rate"] for row in result.history if "learning_rate" in row]
    assert [1e3 * rate for rate in found] == pytest.approx(rates, abs=1e-4)


def test_evaluation_is_the_unweighted_loss_of_the_held_out_rows(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """A learning rate of nearly nothing leaves the model as it was."""
    model, held_out = make_model(), make_rows([20, 50], seed=9)
    before = mean_nll(model, held_out, max_length=32)
    result = run(
        model,
        make_rows([20]),
        eval_rows=held_out,
        eval_steps=1,
        max_steps=2,
        optim={"learning_rate": 1e-12},
    )
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert losses == pytest.approx([before, before], rel=1e-5)


def test_with_adapters_the_base_stays_as_it_was(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    base = make_model()
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = add_lora(base, LoraConfig(rank=4))
    run(model, make_rows([20]), max_steps=2)
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if "lora_B" in name:  # starts at zero
            assert parameter.abs().max() > 0
        elif "lora_" not in name:
            assert torch.equal(parameter, before[plain])


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_checkpointing_changes_memory_not_weights(
    rank: int, run: Make, make_model: Make, make_rows: Make
) -> None:
    def trained(gradient_checkpointing: bool) -> list[torch.Tensor]:
        model = make_model()
        if rank:
            torch.manual_seed(0)
            model = add_lora(model, LoraConfig(rank=rank))
        run(model, make_rows([20]), max_steps=2, gradient_checkpointing=gradient_checkpointing)
        return [p for p in model.parameters() if p.requires_grad]

    for plain, checkpointed in zip(trained(False), trained(True), strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["cross_entropy", "nlirg"])
def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(
    objective: str, run: Make, make_model: Make, make_rows: Make
) -> None:
    model = make_model()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(YTrainerError, match=r"not finite.*learning_rate"):
        run(model, make_rows([20]), max_steps=1, objective={"name": objective})


def test_nothing_to_train_is_an_error_before_the_first_step(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    with pytest.raises(DataError, match="every label is masked"):
        run(make_model(), make_rows([20], prompt=20))


def test_a_prompt_longer_than_a_pack_does_not_stop_the_run(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """The first pieces of such a row have no target at all."""
    result = run(make_model(), make_rows([40], prompt=30), num_train_epochs=1, pack_length=10)
    assert result.target_tokens == 10


def test_token_groups_take_one_step_each(run: Make, make_model: Make, make_rows: Make) -> None:
    """18 targets in groups of 5: four steps, all targets trained."""
    result = run(
        make_model(),
        make_rows([20]),
        batching="token_groups",
        token_group_size=5,
        num_train_epochs=1,
        ordered=True,
    )
    assert (result.steps, result.target_tokens) == (4, 18)


def test_an_error_on_the_way_gives_the_terminal_back(
    run: Make, make_model: Make, make_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def stop(metrics: Any, step: int) -> None:
        raise RuntimeError("stopped")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(RuntimeError, match="stopped"):
        run(make_model(), make_rows([20]), max_steps=2, log=stop)
    shown = terminal.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is shown again
