"""What a step learns depends on its global batch, not on how the batch is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES, Tokens
from ytrainer_core.training.engine import train

Make = Callable[..., Any]
# No two fit into one pack of 32, their numbers of targets differ much, and 16 packs make two
# steps of 8, so that five steps see three epochs in three orders.
LENGTHS = [17, 32, 18, 31, 19, 30, 20, 29, 21, 28, 22, 27, 23, 26, 24, 25]


@pytest.fixture
def trained(make_model: Make, make_rows: Make, make_job: Make, tokenizer: Any, tmp_path: Path):
    def run(batch: int, accumulation: int, *, prompt: int = 10, **job: Any) -> dict[str, Any]:
        model = make_model()
        train(
            model,
            tokenizer,
            make_rows(LENGTHS, prompt=prompt),
            make_job(per_device_batch_size=batch, gradient_accumulation_steps=accumulation, **job),
            checkpoints=tmp_path / "checkpoints",
            log=lambda metrics, step: None,
        )
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    return run


@pytest.mark.parametrize("normalization", ["tokens", "weights"])
@pytest.mark.parametrize("objective", ["nlirg", "cross_entropy"])
def test_8x1_4x2_and_1x8_give_the_same_weights_after_5_steps(
    normalization: str, objective: str, trained: Make, make_model: Make
) -> None:
    """Adam's epsilon is raised: it would blow rounding errors of vanishing gradients up."""
    job = {
        "max_steps": 5,
        "objective": {"name": objective, "normalization": normalization},
        "optim": {"learning_rate": 1e-3, "adam_epsilon": 1e-3},
    }
    whole = trained(8, 1, **job)
    for batch, accumulation in [(4, 2), (1, 8)]:
        cut = trained(batch, accumulation, **job)
        for name, weight in whole.items():
            torch.testing.assert_close(cut[name], weight, rtol=0, atol=1e-6, msg=name)
    start = dict(make_model().named_parameters())
    moved = max((weight - start[name]).abs().max().item() for name, weight in whole.items())
    assert moved > 1e-3


def test_packs_of_unlike_sizes_weigh_by_their_tokens_as_plain_autograd_says(
    trained: Make, make_model: Make, make_rows: Make
) -> None:
    """One step of SGD over 16 packs: gradient of the sum over all targets / their number."""
    rows = make_rows(LENGTHS, prompt=10)
    after = trained(
        1,
        16,
        max_steps=1,
        objective={"name": "cross_entropy"},
        optim={"optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0},
    )
    expected = _one_step_of_sgd(make_model(), rows, "cross_entropy", "tokens")
    for name, weight in expected.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_normalization_by_weights_divides_by_their_sum_over_the_global_batch(
    accumulation: int, trained: Make, make_model: Make, make_rows: Make
) -> None:
    optim = {"optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    rows = make_rows(LENGTHS, prompt=10)
    after = {
        normalization: trained(
            16 // accumulation,
            accumulation,
            max_steps=1,
            objective={"name": "nlirg", "normalization": normalization},
            optim=optim,
        )
        for normalization in ("tokens", "weights")
    }
    for normalization, weights in after.items():
        expected = _one_step_of_sgd(make_model(), rows, "nlirg", normalization)
        for name, weight in expected.items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6, msg=name)
    name = "model.embed_tokens.weight"
    assert (after["tokens"][name] - after["weights"][name]).abs().max() > 1e-4


def _one_step_of_sgd(
    model: Any, rows: list[dict[str, list[int]]], objective: str, normalization: str
) -> dict[str, torch.Tensor]:
    """Weights after one step of SGD with learning rate 0.1, by plain autograd, row by row."""
    total, divisor = torch.zeros(()), torch.zeros(())
    for row in rows:
        labels = torch.tensor(row["labels"][1:])
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100]
        weights = OBJECTIVES[objective].weigh(Tokens(nll.detach()), ObjectiveConfig(name=objective))
        total = total + (weights * nll).sum()
        divisor = divisor + (weights.sum() if normalization == "weights" else len(nll))
    (total / divisor).backward()
    return {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters()}
