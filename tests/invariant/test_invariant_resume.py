"""A training that was cut off and continued ends with the weights of one that was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.model import add_lora

Make = Callable[..., Any]
STEPS = 8
OPTIM = {"lr_scheduler": "cosine", "warmup_steps": 2}
LENGTHS = [17, 32, 18, 31]  # one pack each: four steps an epoch


class PowerCut(Exception):
    """What stops a training half-way."""


@pytest.fixture
def run(make_model: Make, make_rows: Make, make_job: Make, tokenizer: Any, tmp_path: Path):
    """run(kind, stop_after=0, folder="a", **TrainConfig) -> (weights, TrainResult or None)."""

    def go(
        kind: str, *, stop_after: int = 0, folder: str = "a", rows: Any = None, **job: Any
    ) -> tuple[dict[str, torch.Tensor], TrainResult | None]:
        model = make_model()
        if kind == "lora":
            torch.manual_seed(0)
            model = add_lora(model, LoraConfig(rank=4, dropout=0.1))

        def log(metrics: Mapping[str, float], step: int) -> None:
            if stop_after and step >= stop_after:
                raise PowerCut

        defaults = {"max_steps": STEPS, "optim": OPTIM}
        result = None
        try:
            result = train(
                model,
                tokenizer,
                make_rows(LENGTHS) if rows is None else rows,
                make_job(**(defaults | job)),
                checkpoints=tmp_path / folder,
                log=log,
            )
        except PowerCut:
            assert stop_after
        return {n: p.detach().clone() for n, p in model.named_parameters()}, result

    return go


def assert_equal_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    "stop_after, resumed_from",
    [(3, 2), (5, 4), (7, 6)],
    ids=["within the first epoch", "between epochs", "within the second epoch"],
)
def test_continued_equals_uninterrupted_bit_for_bit(
    kind: str, stop_after: int, resumed_from: int, run: Make
) -> None:
    """With dropout, a shuffle per epoch, warm-up and a falling learning rate."""
    straight, _ = run(kind, folder="straight")
    cut, _ = run(kind, stop_after=stop_after, save_steps=2)
    continued, result = run(kind, save_steps=2)
    assert (result.resumed_from, result.steps) == (resumed_from, STEPS)
    assert_equal_bits(continued, straight)
    assert any(not torch.equal(cut[name], straight[name]) for name in straight)


def test_continued_equals_uninterrupted_with_accumulation(run: Make) -> None:
    """Two micro-batches a step, two steps an epoch: stopped in the second epoch."""
    job = {"gradient_accumulation_steps": 2, "max_steps": 5}
    straight, _ = run("lora", folder="straight", **job)
    run("lora", stop_after=4, save_steps=3, **job)
    continued, result = run("lora", save_steps=3, **job)
    assert result.resumed_from == 3
    assert_equal_bits(continued, straight)


def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    run: Make, tmp_path: Path
) -> None:
    straight, _ = run("lora", folder="straight")
    run("lora", stop_after=5, save_steps=2)
    newest = tmp_path / "a" / "checkpoint-4" / "adapter_model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    continued, result = run("lora", save_steps=2)
    assert result.resumed_from == 2
    assert_equal_bits(continued, straight)


def test_a_checkpoint_cut_off_while_it_was_written_is_skipped(run: Make, tmp_path: Path) -> None:
    straight, _ = run("full", folder="straight")
    run("full", stop_after=5, save_steps=2)
    (tmp_path / "a" / "checkpoint-4" / "ytrainer-checkpoint.json").unlink()
    (tmp_path / "a" / "checkpoint-4" / "optimizer.pt").unlink()
    continued, result = run("full", save_steps=2)
    assert result.resumed_from == 2
    assert_equal_bits(continued, straight)


def test_at_most_the_configured_number_of_checkpoints_is_kept(run: Make, tmp_path: Path) -> None:
    run("lora", save_steps=1, save_total_limit=2)
    assert sorted(p.name for p in (tmp_path / "a").glob("checkpoint-*")) == [
        "checkpoint-7",
        "checkpoint-8",
    ]


def test_without_resume_training_starts_anew(run: Make) -> None:
    straight, _ = run("lora", folder="straight")
    run("lora", stop_after=5, save_steps=2)
    anew, result = run("lora", save_steps=2, resume="never")
    assert result.resumed_from == 0
    assert_equal_bits(anew, straight)


def test_a_finished_training_is_not_trained_again(run: Make) -> None:
    """A crash after the last step: the weights come from its checkpoint."""
    straight, first = run("full", save_steps=4)
    again, result = run("full", save_steps=4)
    assert (result.resumed_from, result.target_tokens) == (STEPS, first.target_tokens)
    assert_equal_bits(again, straight)


def test_same_seed_same_weights_and_another_seed_others(run: Make) -> None:
    first, _ = run("lora", folder="a")
    second, _ = run("lora", folder="b")
    other, _ = run("lora", folder="c", seed=8)
    assert_equal_bits(second, first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def seen(result: TrainResult) -> list[list[float]]:
    """Token losses of each step, five targets each, of a model that does not move."""
    return [
        [round(nll, 3) for nll in result.nll_first[i : i + 5]]
        for i in range(0, len(result.nll_first), 5)
    ]


def test_an_ordered_corpus_is_seen_in_its_order_and_a_shuffled_one_by_seed_and_epoch(
    run: Make, make_rows: Make
) -> None:
    """Six rows of five targets, one a step, with a learning rate of zero: two epochs."""
    rows = make_rows([7] * 6)
    still = {"rows": rows, "pack_length": 8, "max_steps": 12, "optim": {"learning_rate": 1e-12}}

    def order(folder: str, **job: Any) -> list[list[float]]:
        _, result = run("full", folder=folder, **still, **job)
        return seen(result)

    ordered = order("a", ordered=True)
    assert ordered[:6] == ordered[6:] and len({str(row) for row in ordered}) == 6
    shuffled = order("b")
    first, second = shuffled[:6], shuffled[6:]
    assert sorted(first) == sorted(second) == sorted(ordered[:6])
    assert first != second and first != ordered[:6]
    assert order("c") == shuffled
    assert order("d", seed=8)[:6] != first
