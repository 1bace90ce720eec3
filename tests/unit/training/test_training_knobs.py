"""Every knob of the loop does what its description says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.config import LoraConfig, ModelConfig, TrainConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.scoring.signals import mean_nll
from ytrainer_core.training.arguments import accumulation_steps
from ytrainer_core.training.batches import build_batches
from ytrainer_core.training.documents import DOCUMENTS
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.model import (
    BaseReference,
    ModelCard,
    add_lora,
    base_digest,
    load_model,
    load_trained,
    probe_logits,
    save_trained,
)

Make = Callable[..., Any]


@pytest.fixture
def run(tokenizer: Any, make_job: Make, tmp_path: Path) -> Make:
    """run(model, rows, eval_rows=, teacher=, keep_epoch=, **job) -> TrainResult."""

    def go(model: Any, rows: Any, *, folder: str = "a", **options: Any) -> TrainResult:
        names = ("eval_rows", "teacher", "keep_epoch")
        ours = {name: options.pop(name) for name in names if name in options}
        return train(
            model,
            tokenizer,
            rows,
            make_job(**options),
            checkpoints=tmp_path / folder,
            log=lambda metrics, step: None,
            **ours,
        )

    return go


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- objectives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rank", [0, 4])
def test_every_objective_lowers_the_loss_of_what_it_weighs(
    name: str, rank: int, run: Make, make_model: Make, make_rows: Make
) -> None:
    """Weights small enough for every curve: a fresh model's losses lie around ln(300) = 5.7."""
    model, rows = make_model(initializer_range=0.02), make_rows([12, 12, 12, 12])
    if rank:
        torch.manual_seed(0)
        model = add_lora(model, LoraConfig(rank=rank))
    before = mean_nll(model, rows)
    options: dict[str, Any] = {"name": name, "stm": {"max_perplexity": 1000.0}}
    run(model, rows, objective=options, num_train_epochs=8, optim={"learning_rate": 1e-2})
    assert mean_nll(model, rows) < before - 0.05


def test_flow_and_stm_weigh_by_the_base_and_not_by_the_model_in_training(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """stm with a limit that every token passes is cross-entropy, with none it is nothing."""
    rows = make_rows([12, 14])
    steps = {"num_train_epochs": 3}

    def after(objective: dict[str, Any]) -> dict[str, torch.Tensor]:
        model = make_model()
        run(model, rows, objective=objective, **steps)
        return weights_of(model)

    plain = after({"name": "cross_entropy"})
    everything = after({"name": "stm", "stm": {"max_perplexity": 1e9}})
    nothing = after({"name": "stm", "stm": {"max_perplexity": 1e-9}})
    assert all(torch.equal(everything[n], plain[n]) for n in plain)
    start = weights_of(make_model())
    assert all(torch.equal(nothing[n], start[n]) for n in start)


def test_a_rows_own_weights_leave_tokens_out(run: Make, make_model: Make, make_rows: Make) -> None:
    """A weight of 0 on the second half of every row equals masking it, but for the count."""
    rows = make_rows([20, 20], prompt=2)
    halves = [{**row, "weights": [1.0] * 11 + [0.0] * 9} for row in rows]
    masked = [{**row, "labels": row["labels"][:11] + [-100] * 9} for row in rows]
    one, other = make_model(), make_model()
    options = {
        "objective": {"name": "cross_entropy", "normalization": "weights"},
        "optim": {"optimizer": "sgd", "learning_rate": 0.1},
        "max_steps": 2,
    }
    run(one, halves, **options)
    run(other, masked, **options)
    for (name, weight), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=name)


def test_the_median_of_talr_is_that_of_the_global_batch(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    rows = make_rows([17, 32, 18, 31, 19, 30, 20, 29], prompt=10)
    options = {
        "objective": {"name": "talr"},
        "optim": {"optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0},
        "max_steps": 1,
    }
    whole, cut = make_model(), make_model()
    run(whole, rows, per_device_batch_size=8, **options)
    run(cut, rows, gradient_accumulation_steps=8, **options)
    for (name, weight), expected in zip(cut.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=name)


def test_distillation_alone_draws_the_student_to_its_teacher(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    student, teacher = make_model(seed=0), make_model(seed=5)
    rows = make_rows([20, 20])
    ids = torch.tensor([row["input_ids"] for row in rows])

    def distance() -> float:
        with torch.no_grad():
            p, q = (m.eval()(input_ids=ids).logits.log_softmax(-1) for m in (teacher, student))
        return float((p.exp() * (p - q)).sum(-1)[:, 2:].mean())

    before = distance()
    distillation = {"teacher": "given", "token_loss_coefficient": 0.0}
    run(
        student,
        rows,
        teacher=teacher,
        objective={"name": "cross_entropy", "distillation": distillation},
        num_train_epochs=20,
        optim={"learning_rate": 1e-2},
    )
    assert distance() < before / 2


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train, processes, steps",
    [
        ({"gradient_accumulation_steps": 3}, 1, 3),
        ({"gradient_accumulation_steps": 0, "global_batch_size": 8}, 1, 8),
        ({"gradient_accumulation_steps": 0, "global_batch_size": 8}, 2, 4),
        (
            {"gradient_accumulation_steps": 0, "global_batch_size": 8, "per_device_batch_size": 3},
            1,
            3,
        ),
        (
            {"gradient_accumulation_steps": 0, "global_batch_size": 2, "per_device_batch_size": 8},
            4,
            1,
        ),
        (  # micro-batches of two packs of ten tokens
            {
                "gradient_accumulation_steps": 0,
                "global_batch_size": 8,
                "pack_length": 10,
                "micro_batch_tokens": 20,
            },
            1,
            4,
        ),
    ],
)
def test_automatic_accumulation_comes_nearest_to_the_global_batch(
    train: dict[str, Any], processes: int, steps: int, make_job: Make, make_rows: Make
) -> None:
    job = make_job(**train)
    batches = build_batches(make_rows([10] * 8), job.train, 10)
    assert accumulation_steps(job, batches, processes) == steps


@pytest.mark.parametrize(
    "train",
    [
        {"batching": "packed", "pack_length": 64},
        {"batching": "length_grouped", "per_device_batch_size": 4},
        {"batching": "length_grouped", "micro_batch_tokens": 64},
        {"batching": "packed", "pack_length": 32, "micro_batch_tokens": 64},
    ],
    ids=["packed", "grouped", "grouped by budget", "packed by budget"],
)
@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_one_step_over_the_whole_corpus_is_the_same_however_it_is_batched(
    train: dict[str, Any],
    attention: str,
    run: Make,
    make_model: Make,
    make_rows: Make,
) -> None:
    rows = make_rows([9, 14, 30, 11, 7, 22], prompt=3)
    options = {
        "objective": {"name": "nlirg"},
        "optim": {"optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0},
        "max_steps": 1,
    }
    alone, other = make_model(), make_model(attention="eager" if attention == "eager" else "sdpa")
    run(alone, rows, gradient_accumulation_steps=6, pack_length=32, **options)
    run(other, rows, gradient_accumulation_steps=6, attention=attention, **options, **train)
    for (name, weight), expected in zip(other.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=name)


def test_the_models_own_attention_is_back_after_training(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    model = make_model()
    during = []
    model.model.register_forward_hook(
        lambda *_: during.append(model.config._attn_implementation) and None
    )
    run(model, make_rows([20]), max_steps=1)
    assert set(during[-1:]) == {DOCUMENTS} and model.config._attn_implementation == "sdpa"


# --- the loop ------------------------------------------------------------------------------------


def test_frozen_patterns_stay_as_they_are_and_the_rest_moves(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    model = make_model()
    before = weights_of(model)
    run(model, make_rows([20]), max_steps=2, freeze="model.embed_tokens.*,*.layers.0.*")
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {
        name for name in before if "embed_tokens" not in name and ".layers.0." not in name
    }


@pytest.mark.parametrize(
    "pattern, words", [("nothing.*", "fits no parameter"), ("*", "nothing to")]
)
def test_a_pattern_that_freezes_nothing_or_everything_is_an_error(
    pattern: str, words: str, run: Make, make_model: Make, make_rows: Make
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(make_model(), make_rows([20]), freeze=pattern)


def test_neftune_changes_training_and_nothing_after_it(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    rows = make_rows([20])
    plain, noisy = make_model(), make_model()
    run(plain, rows, max_steps=2)
    result = run(noisy, rows, max_steps=2, neftune_noise_alpha=5.0, folder="noisy")
    assert not torch.equal(plain.model.norm.weight, noisy.model.norm.weight)
    assert math.isfinite(result.history[0]["loss"])
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        assert torch.equal(noisy.train()(input_ids=ids).logits, noisy(input_ids=ids).logits)


def test_training_stops_when_the_held_out_loss_does_not_improve_enough(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """A learning rate of nearly nothing improves nothing: first evaluation, then two in vain."""
    result = run(
        make_model(),
        make_rows([20]),
        eval_rows=make_rows([20], seed=9),
        eval_steps=2,
        max_steps=40,
        early_stopping={"patience": 2, "min_delta": 0.01},
        optim={"learning_rate": 1e-9},
    )
    assert (result.steps, result.stopped_early) == (6, True)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_evaluation_is_what_remains_where_it_is_asked_for(
    metric: str, run: Make, make_model: Make, make_rows: Make
) -> None:
    """A learning rate that destroys what it learns: held-out rows are the training rows."""
    rows = make_rows([20, 20])
    model = make_model()
    result = run(
        model,
        rows,
        eval_rows=rows,
        eval_steps=1,
        save_steps=1,
        max_steps=12,
        load_best_model=True,
        early_stopping={"metric": metric},
        optim={"learning_rate": 0.3},
    )
    evaluations = [row for row in result.history if "eval_loss" in row]
    losses = [row["eval_loss"] for row in evaluations]
    accuracies = [row["eval_accuracy"] for row in evaluations]
    best = int(np.argmin(losses)) if metric == "loss" else int(np.argmax(accuracies))
    assert mean_nll(model, rows) == pytest.approx(losses[best], rel=1e-5)


def test_evaluation_counts_the_tokens_that_were_guessed(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    model, rows = make_model(), make_rows([20, 50], seed=9)
    guessed = total = 0
    for row in rows:
        for start in range(0, len(row["input_ids"]) - 1, 31):  # pieces of 32 tokens
            ids = row["input_ids"][start : start + 32]
            labels = row["labels"][start : start + 32]
            with torch.no_grad():
                top = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
            pairs = [(t, label) for t, label in zip(top, labels[1:], strict=False) if label != -100]
            guessed += sum(t == label for t, label in pairs)
            total += len(pairs)
    result = run(
        model,
        make_rows([20]),
        eval_rows=rows,
        eval_steps=1,
        max_steps=1,
        optim={"learning_rate": 1e-12},
    )
    told = next(row["eval_accuracy"] for row in result.history if "eval_accuracy" in row)
    assert told == pytest.approx(guessed / total)


def test_models_are_kept_after_the_chosen_epochs(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    kept: list[int] = []
    run(
        make_model(),
        make_rows([20] * 3),
        num_train_epochs=4,
        save_epochs="1,3",
        keep_epoch=kept.append,
    )
    assert kept == [1, 3]


@pytest.mark.slow
def test_compiled_layers_train_the_same(run: Make, make_model: Make, make_rows: Make) -> None:
    rows = make_rows([20, 20])
    plain, compiled = make_model(num_hidden_layers=1), make_model(num_hidden_layers=1)
    run(plain, rows, max_steps=2)
    run(compiled, rows, max_steps=2, torch_compile=True, folder="compiled")
    for (name, weight), expected in zip(
        compiled.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == expected[0]
        torch.testing.assert_close(weight, expected[1], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "sgd", "lion_32bit"])
def test_the_optimizer_is_a_choice(
    optimizer: str, run: Make, make_model: Make, make_rows: Make
) -> None:
    if optimizer.startswith("lion"):
        pytest.importorskip("bitsandbytes")
    model, rows = make_model(), make_rows([20])
    before = mean_nll(model, rows)
    run(model, rows, max_steps=5, optim={"optimizer": optimizer, "learning_rate": 1e-3})
    assert mean_nll(model, rows) < before


@pytest.mark.parametrize("optim", [{"optimizer": "adamw_bnb_8bit"}, {"optimizer": "no_such"}])
def test_an_optimizer_that_is_not_there_is_an_error_with_its_name(
    optim: dict[str, Any], run: Make, make_model: Make, make_rows: Make
) -> None:
    with pytest.raises(ConfigError, match=optim["optimizer"]):
        run(make_model(), make_rows([20]), max_steps=1, optim=optim)


# --- adapters ------------------------------------------------------------------------------------


def test_rslora_scales_by_the_root_of_the_rank(make_model: Make) -> None:
    plain = add_lora(make_model(), LoraConfig(rank=16, alpha=32))
    stabilised = add_lora(make_model(), LoraConfig(rank=16, alpha=32, rslora=True))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    assert plain.get_submodule(name).scaling["default"] == 2
    assert stabilised.get_submodule(name).scaling["default"] == 8


def test_lora_plus_gives_b_a_larger_learning_rate(
    run: Make, make_model: Make, make_rows: Make
) -> None:
    """One step of Adam moves every weight by about its learning rate."""
    torch.manual_seed(0)
    model = add_lora(make_model(), LoraConfig(rank=4))
    before = weights_of(model)
    # the first step moves B alone, since A's gradient is zero while B is
    run(model, make_rows([20]), max_steps=1, lora={"rank": 4, "plus_ratio": 16.0})
    moved = {
        name: (p - before[name]).abs().median().item()
        for name, p in model.named_parameters()
        if "lora_B" in name
    }
    assert np.median(list(moved.values())) == pytest.approx(16e-3, rel=0.01)


@pytest.mark.parametrize(
    "options", [{"dora": True}, {"init": "pissa"}, {"rslora": True}, {"plus_ratio": 16.0}]
)
def test_what_is_saved_of_any_kind_of_adapter_is_what_was_trained(
    options: dict[str, Any],
    run: Make,
    base_folder: Path,
    make_rows: Make,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(rank=4, **options)
    model = add_lora(load_model(base_folder, ModelConfig(dtype="float32")), lora)
    run(model, make_rows([20, 20]), num_train_epochs=3, lora=lora.model_dump())
    probe = torch.arange(40).view(2, 20)
    base = BaseReference(str(base_folder), "", base_digest(base_folder))
    save_trained(model, tokenizer, tmp_path / "out", ModelCard("adapter", base, "float32"), probe)
    trained = probe_logits(model, probe)
    again, _, _ = load_trained(tmp_path / "out")
    torch.testing.assert_close(probe_logits(again, probe), trained, rtol=0, atol=1e-4)
    plain = load_model(base_folder, ModelConfig(dtype="float32"))
    assert (probe_logits(plain, probe) - trained).abs().max() > 1e-2


def test_pissa_starts_from_the_base_itself(base_folder: Path) -> None:
    """What is taken out of the weights is in the adapter: nothing has changed yet."""
    plain = load_model(base_folder, ModelConfig(dtype="float32"))
    probe = torch.arange(40).view(2, 20)
    expected = probe_logits(plain, probe)
    weight = plain.model.layers[0].self_attn.q_proj.weight.clone()
    model = add_lora(plain, LoraConfig(rank=4, alpha=4, init="pissa"))
    torch.testing.assert_close(probe_logits(model, probe), expected, rtol=1e-4, atol=1e-4)
    moved = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert not torch.allclose(moved, weight)


def test_four_bits_without_bitsandbytes_is_an_error_with_a_remedy(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        load_model(base_folder, ModelConfig(quantization="4bit"))


@pytest.mark.parametrize(
    "train, words",
    [
        ({"early_stopping": {"patience": 2}}, "eval_steps"),
        ({"load_best_model": True, "eval_steps": 3, "save_steps": 4}, "multiple"),
        ({"save_epochs": "0,1"}, "counts from 1"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(train: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**train)
