"""`ytrainer show` tells what a training then takes: steps, parameters, memory, time, knobs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from benchmarks import memory as benchmark
from ytrainer_core.config import (
    ArchitectureConfig,
    DataConfig,
    LaunchConfig,
    LoraConfig,
    ModelConfig,
    PretrainConfig,
    SftConfig,
    TrainConfig,
)
from ytrainer_core.errors import YTrainerError
from ytrainer_core.training import engine, memory, remedies
from ytrainer_core.training.arguments import accumulation_steps
from ytrainer_core.training.batches import SeededOrder, build_batches
from ytrainer_core.training.engine import train
from ytrainer_core.training.estimate import estimate, largest_micro_batch, optimizer_steps
from ytrainer_core.training.memory import Plan, count, needed_bytes
from ytrainer_core.training.model import add_lora
from ytrainer_core.training.rehearsal import MicroBatch


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    """Five rows, each of them a pack of its own, and one that is held out."""
    paths = {}
    for split, count_ in (("train", 5), ("validation", 1)):
        paths[split] = tmp_path / f"{split}.jsonl"
        lines = [json.dumps({"text": f"{split} row {i} " + "xyz" * 5}) for i in range(count_)]
        paths[split].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataConfig(train=str(paths["train"]), validation=str(paths["validation"]), max_length=48)


@pytest.fixture
def config(base_folder: Path, corpus: DataConfig) -> Callable[..., SftConfig]:
    """config(rank=0, **changes of TrainConfig) -> an sft of the five rows."""

    def make(rank: int = 0, **changes: Any) -> SftConfig:
        return SftConfig(
            model=ModelConfig(name_or_path=str(base_folder), dtype="float32"),
            data=corpus,
            lora=LoraConfig(rank=rank),
            train=TrainConfig(**({"save_steps": 0} | changes)),
        )

    return make


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, steps",
    [
        ({"num_train_epochs": 1}, 5),
        ({"num_train_epochs": 3, "gradient_accumulation_steps": 2}, 9),  # 2 + 2 + 1 packs
        ({"num_train_epochs": 3, "per_device_batch_size": 2}, 9),
        (
            {"num_train_epochs": 2, "per_device_batch_size": 2, "gradient_accumulation_steps": 2},
            4,
        ),
        ({"num_train_epochs": 2.5}, 13),
        ({"max_steps": 4}, 4),
        ({"num_train_epochs": 1, "gradient_accumulation_steps": 0}, 1),
        ({"num_train_epochs": 2, "gradient_accumulation_steps": 0, "global_batch_size": 2}, 6),
        ({"num_train_epochs": 1, "micro_batch_tokens": 64}, 3),
        (
            {
                "num_train_epochs": 2,
                "batching": "length_grouped",
                "per_device_batch_size": 2,
                "gradient_accumulation_steps": 2,
            },
            4,
        ),
        ({"max_steps": 3, "batching": "token_groups"}, 3),
    ],
)
def test_the_steps_told_are_the_steps_trained(
    changes: dict[str, Any],
    steps: int,
    make_model: Callable[..., Any],
    make_rows: Callable[..., Any],
    make_job: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    rows, job = make_rows([30] * 5), make_job(max_length=48, **changes)
    batches = build_batches(rows, job.train, 48, ordered=job.ordered, seed=job.seed)
    assert optimizer_steps(job, batches) == steps
    result = train(
        make_model(),
        tokenizer,
        rows,
        job,
        checkpoints=tmp_path / "checkpoints",
        log=lambda metrics, step: None,
    )
    assert result.steps == steps


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("accumulation", [0, 1, 3])
@pytest.mark.parametrize("batching", ["packed", "length_grouped", "token_groups"])
def test_every_process_takes_the_steps_told(
    processes: int,
    size: int,
    accumulation: int,
    batching: str,
    make_rows: Callable[..., Any],
    make_job: Callable[..., Any],
) -> None:
    """As the trainer's data loader deals out the filled-up order, one batch a process in turn."""
    job = make_job(
        max_length=48,
        num_train_epochs=2,
        batching=batching,
        per_device_batch_size=size,
        gradient_accumulation_steps=accumulation,
    )
    batches = build_batches(make_rows([30, 20, 40, 48, 33, 25, 47]), job.train, 48)
    size = 1 if batches.whole else size
    order = list(SeededOrder(len(batches), shuffle=True, seed=0, multiple=processes * size))
    mine = len([order[i : i + size] for i in range(0, len(order), size)]) // processes
    step_of = accumulation_steps(job, batches, processes)
    taken = 2 * len(range(0, mine, step_of))
    assert optimizer_steps(job, batches, processes) == taken


# --- what is shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 4])
def test_the_parameters_told_are_those_of_the_model(
    rank: int, config: Callable[..., SftConfig], make_model: Callable[..., Any]
) -> None:
    model = make_model()
    if rank:
        model = add_lora(model, LoraConfig(rank=rank))
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    told = estimate(config(rank), with_probe=False)
    assert (told.parameters, told.trainable) == (total, trainable)
    shown = told.summary()
    assert shown["trainable parameters"] == f"{trainable:,} of {total:,} ({trainable / total:.2%})"
    assert shown["optimizer steps"] == "15 (5 packed samples)"
    assert told.memory.exact and "weights" in shown["peak memory"]
    assert "time" not in shown


def test_frozen_parameters_are_not_told_as_trained(config: Callable[..., SftConfig]) -> None:
    told = estimate(config(freeze=("*.layers.0.*",)), with_probe=False)
    assert 0 < told.trainable < told.parameters


def test_a_probe_tells_seconds_of_a_step_and_of_the_training(
    config: Callable[..., SftConfig],
) -> None:
    told = estimate(config(rank=4, gradient_accumulation_steps=2))
    assert told.probe is not None
    assert told.probe.step > 0 and told.probe.tokens_per_second > 0
    assert told.probe.micro_batches == 2  # the first of three only warms up
    assert "s per optimizer step" in told.summary()["time"]


def test_pretraining_is_told_with_its_own_tokenizer_and_shape(corpus: DataConfig) -> None:
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    config = PretrainConfig(architecture=ArchitectureConfig(**shape), data=corpus)
    told = estimate(config)
    assert told.rows == 5 and told.trainable == told.parameters
    assert told.plan.shape.vocab_size <= 300 and told.plan.shape.hidden_size == 32
    assert told.probe is not None
    assert not any("lora" in remedy.knob for remedy in remedies.remedies(told.plan))


def test_a_training_that_does_not_fit_is_not_probed_and_names_knobs(
    config: Callable[..., SftConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ytrainer_core.training.estimate as module

    monkeypatch.setattr(module, "available_bytes", lambda device: 2.0**20)
    told = estimate(config(), with_probe=True)
    shown = told.summary()
    assert not told.fits and told.probe is None
    assert shown["does not fit"].startswith("1 MiB are free.")
    assert "not measured" in shown["time"]


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def plan(make_job: Callable[..., Any]) -> Callable[..., Plan]:
    """plan(lengths=, model=, job=, **changes): one pack, four layers of width 64, on a CPU."""

    def make(
        lengths: tuple[int, ...] = (64, 64),
        model: dict[str, Any] | None = None,
        job: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Plan:
        dimensions = {
            "vocab_size": 500,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
        }
        batch = MicroBatch((lengths,), sum(lengths) - len(lengths))
        defaults: dict[str, Any] = {"weight_dtype": torch.float32, "device": "cpu"}
        return Plan(
            shape=Qwen3Config(**(dimensions | (model or {}))),
            job=make_job(max_length=sum(lengths), **(job or {})),
            batch=batch,
            **(defaults | changes),
        )

    return make


def weights_of(plan: Plan) -> int:
    """Parameters of a plan's model."""
    return sum(p.numel() for p in memory.meta_model(plan).parameters())


def test_full_training_holds_weights_gradients_and_two_moments(
    plan: Callable[..., Plan],
) -> None:
    """4 bytes a weight, 8 of state; gradients at their greatest hold the tied head's extra."""
    made = plan(lengths=(300, 212), accumulation=2)
    counted = count(made)
    weights = weights_of(made)
    assert counted.exact and counted.phase == "micro-batch"
    assert counted.parts["weights"] == pytest.approx(4 * weights, rel=0.01)  # and a few buffers
    assert counted.parts["optimizer"] == 8 * weights
    assert counted.parts["gradients"] >= 4 * weights
    chunk = 510 * 500 * 4
    assert chunk <= counted.parts["logits chunk"] < 1.5 * chunk  # and the targets' hidden states


def test_one_step_has_no_moments_while_it_goes_forward(plan: Callable[..., Plan]) -> None:
    assert count(plan(lengths=(900, 124), steps=1)).parts["optimizer"] == 0


def test_the_optimizers_step_can_be_the_peak(plan: Callable[..., Plan]) -> None:
    counted = count(plan(lengths=(8,), steps=1, model={"vocab_size": 300}))
    assert counted.phase == "optimizer step" and "activations" not in counted.parts


def test_a_low_rank_training_holds_gradients_of_adapters_alone(plan: Callable[..., Plan]) -> None:
    made = plan(lengths=(256, 256), job={"lora": {"rank": 4}})
    trained = sum(p.numel() for p in memory.meta_model(made).parameters() if p.requires_grad)
    counted = count(made)
    assert counted.parts["optimizer"] == 8 * trained
    assert counted.parts["gradients"] <= 4 * trained


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_more_tokens_never_take_less(
    rank: int, checkpointing: bool, plan: Callable[..., Plan]
) -> None:
    job = {"lora": {"rank": rank}, "gradient_checkpointing": checkpointing}
    sizes = [count(plan(lengths=(n,), job=job)).peak for n in (16, 64, 128, 256, 512)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    "less, more",
    [
        ({"job": {"gradient_checkpointing": True}}, {}),
        ({"job": {"lora": {"rank": 4}}}, {}),
        ({"job": {"optim": {"optimizer": "adafactor"}}}, {}),
        ({"job": {"objective": {"chunk_tokens": 16}}}, {}),
        ({"model": {"num_hidden_layers": 2}}, {}),
        ({"model": {"vocab_size": 300}}, {}),
        ({}, {"launch": LaunchConfig(processes=2)}),
        ({}, {"job": {"lora": {"rank": 0}, "objective": {"name": "asft"}}}),  # a copy of the base
    ],
)
def test_what_should_take_less_takes_less(
    less: dict[str, Any], more: dict[str, Any], plan: Callable[..., Plan]
) -> None:
    lengths = (256, 256)
    assert count(plan(lengths=lengths, **less)).peak < count(plan(lengths=lengths, **more)).peak


@pytest.mark.parametrize("stage, falling", [(1, 1), (2, 2), (3, 3)])
def test_zero_divides_the_parts_that_its_stage_splits(
    stage: int, falling: int, plan: Callable[..., Plan]
) -> None:
    def parts(zero: int) -> dict[str, float]:
        made = plan(lengths=(256, 256), launch=LaunchConfig(processes=4))
        settings = {"zero_optimization": {"stage": zero}}
        job = dataclasses.replace(made.job, deepspeed=settings)
        return count(dataclasses.replace(made, job=job)).parts

    whole, split = parts(0), parts(stage)
    split_up = [
        name for name in ("optimizer", "gradients", "weights") if split[name] == whole[name] / 4
    ]
    assert split_up == ["optimizer", "gradients", "weights"][:falling]


def test_on_a_cpu_all_processes_need_their_memory_at_once(plan: Callable[..., Plan]) -> None:
    made = plan(launch=LaunchConfig(processes=3))
    counted = count(made, process=1e9)
    assert needed_bytes(made, counted) == 3 * counted.peak
    on_gpu = dataclasses.replace(made, device="cuda")
    assert needed_bytes(on_gpu, counted) == counted.peak


def test_a_file_of_another_dtype_is_there_beside_the_weights_while_loading(
    plan: Callable[..., Plan],
) -> None:
    made = plan(lengths=(8,), job={"lora": {"rank": 1}}, file_bytes=10**9)
    assert count(dataclasses.replace(made, file_dtype=torch.bfloat16)).phase == "loading"
    assert count(dataclasses.replace(made, file_dtype=torch.float32)).phase != "loading"


def test_a_model_that_cannot_be_rehearsed_is_counted_by_formula(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(lengths=(256, 256))
    exact = count(made)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("this forward looks at values")

    monkeypatch.setattr(memory, "rehearse", refuse)
    rough = count(made)
    assert exact.exact and not rough.exact
    assert rough.peak == pytest.approx(exact.peak, rel=0.5)


def test_the_largest_micro_batch_is_the_one_that_is_padded_most(
    make_rows: Callable[..., Any], make_job: Callable[..., Any]
) -> None:
    job = make_job(max_length=48, per_device_batch_size=2)
    batches = build_batches(make_rows([10, 48, 30, 40]), job.train, 48)
    largest = largest_micro_batch(batches, job)
    assert sorted(map(sum, largest.packs)) == [40, 48]
    assert largest.targets == 40 + 48 - 3 * 2  # three documents, prompts of two tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.SHAPES)
def test_the_peak_told_is_within_a_fifth_of_the_peak_measured(name: str, tmp_path: Path) -> None:
    """Both by the commands themselves, each in a process of its own."""
    found = benchmark.compare(name, tmp_path / "shape", threads=1)
    assert abs(found["error"]) <= benchmark.PROMISED, found
    assert abs(found["error_above"]) <= benchmark.PROMISED_ABOVE, found


# --- knobs ---------------------------------------------------------------------------------------


def test_the_knob_that_saves_most_comes_first_and_saves_what_it_says(
    plan: Callable[..., Plan],
) -> None:
    made = plan(lengths=(1024, 1024), tunable=True)
    found = remedies.remedies(made)
    saved = [remedy.saves for remedy in found]
    assert saved == sorted(saved, reverse=True) and min(saved) > 0
    knobs = [remedy.knob for remedy in found]
    assert knobs[0] == "train.gradient_checkpointing=true"  # activations are most of it
    turned = plan(lengths=(1024, 1024), job={"gradient_checkpointing": True})
    assert found[0].saves == pytest.approx(count(made).peak - count(turned).peak)


def test_knobs_that_are_turned_already_are_not_named(plan: Callable[..., Plan]) -> None:
    job = {"gradient_checkpointing": True, "lora": {"rank": 4}}
    named = " ".join(remedy.knob for remedy in remedies.remedies(plan(lengths=(1024,), job=job)))
    assert "gradient_checkpointing" not in named and "lora.rank" not in named
    assert "train.pack_length=512" in named


@pytest.mark.parametrize(
    "error, who",
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the GPU"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "this machine"),
        (MemoryError(), "this machine"),
    ],
)
def test_an_out_of_memory_error_names_the_same_knobs_with_their_savings(
    error: Exception,
    who: str,
    make_model: Callable[..., Any],
    make_rows: Callable[..., Any],
    make_job: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(engine.TokenTrainer, "training_step", fail)
    with pytest.raises(YTrainerError, match=f"{who} ran out of memory") as raised:
        train(
            make_model(num_hidden_layers=4),
            tokenizer,
            make_rows([1000] * 2),
            make_job(max_length=1024),
            checkpoints=tmp_path / "checkpoints",
            log=lambda metrics, step: None,
        )
    assert "train.gradient_checkpointing=true saves about" in str(raised.value)
    assert "train.pack_length=500 saves about" in str(raised.value)


def test_without_a_count_an_out_of_memory_error_names_the_usual_knobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remedies, "remedies", lambda plan: 1 / 0)
    with (
        pytest.raises(YTrainerError, match=r"train\.per_device_batch_size=1"),
        engine.named_failures(lambda: engine._advice(None, None, None)),  # type: ignore[arg-type]
    ):
        raise MemoryError
