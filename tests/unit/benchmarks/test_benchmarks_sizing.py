"""The sizing table: what `ytrainer show` counts, checked by hand on a model of 28,256 weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import SHAPE, sft_task

from benchmarks import sizing
from benchmarks.sizing import METHODS, OVER, PROCESS_BYTES, SHAPES, SPLIT
from ytrainer_core.training import work
from ytrainer_core.training.flops import parameter_counts
from ytrainer_core.training.memory import GIB, Memory, meta_model

TINY = {key: value for key, value in SHAPE.items() if key != "initializer_range"} | {
    "tie_word_embeddings": True
}
BODY = 2 * (
    1024 + 512 + 512 + 1024 + 3 * 2048 + 32 + 32 + 16 + 16
)  # q, k, v, o, feed-forward, norms
WEIGHTS = BODY + 300 * 32 + 32  # embedding, which is the head too, and the last norm
LINEAR = 2 * (1024 + 512 + 512 + 1024 + 3 * 2048)
ANGLES = 2 * 4 * 16 // 2  # bytes of the rotary frequencies, which are kept twice
ADAPTER = 2 * 16 * (64 + 48 + 48 + 64 + 3 * 96)  # rank x (inputs + outputs) of seven matrices


def peak(method: str, processes: int = 1) -> Memory:
    return sizing.gpu_memory(sizing.plan_of(TINY, METHODS[method], processes, tokens=64))


def needs(method: str, gpu_bytes: float = GIB) -> sizing.Needs:
    return sizing.needs(TINY, METHODS[method], gpu_bytes=gpu_bytes, tokens=64)


@pytest.mark.parametrize(
    ("size", "billions"),
    [("0.6B", 0.44), ("1.7B", 1.4), ("4B", 3.6), ("8B", 6.95), ("14B", 13.2), ("32B", 31.2)],
)
def test_the_shapes_have_as_many_weights_as_their_model_cards_tell(
    size: str, billions: float
) -> None:
    shape = SHAPES[size]
    model = meta_model(sizing.plan_of(shape, METHODS["all weights"]))
    tables = 1 if shape["tie_word_embeddings"] else 2
    body = parameter_counts(model)[0] - tables * shape["vocab_size"] * shape["hidden_size"]
    assert body / 1e9 == pytest.approx(billions, rel=0.02)  # without embedding and head


def test_all_weights_are_float32_with_two_moments_and_a_gradient_beside_them() -> None:
    parts = peak("all weights").parts
    assert parts["weights"] == 4 * WEIGHTS + ANGLES
    assert parts["optimizer"] == 8 * WEIGHTS
    assert parts["gradients"] >= 4 * WEIGHTS
    assert not {"process", "heap", "weights' file"} & set(parts)


def test_of_a_lora_only_the_adapter_has_moments_and_the_base_is_bfloat16() -> None:
    parts = peak("LoRA, rank 16").parts
    assert parts["weights"] == 2 * WEIGHTS + ANGLES + 4 * ADAPTER
    assert parts["optimizer"] == 8 * ADAPTER


def test_four_bits_shrink_the_linear_layers_alone() -> None:
    whole, quantized = (peak(name).parts for name in ("LoRA, rank 16", "QLoRA, rank 16"))
    saved = LINEAR * (2 - 0.516)
    assert whole["weights"] - quantized["weights"] == pytest.approx(saved, rel=1e-6)


@pytest.mark.parametrize("processes", [1, 8])
def test_zero_3_divides_two_bytes_of_weights_and_twelve_of_state(processes: int) -> None:
    parts = peak(SPLIT, processes).parts
    assert parts["weights"] == (2 * WEIGHTS + ANGLES) / processes
    assert parts["optimizer"] == 12 * WEIGHTS / processes


@pytest.mark.parametrize(
    ("method", "checkpoint"),
    [
        ("LoRA, rank 16", 12 * ADAPTER),
        ("QLoRA, rank 16", 12 * ADAPTER),
        ("all weights", 12 * WEIGHTS),
        (SPLIT, 14 * WEIGHTS),
    ],
)
def test_the_disk_holds_the_base_and_three_checkpoints(method: str, checkpoint: int) -> None:
    found = needs(method)
    assert found.checkpoint == checkpoint
    assert found.disk == 2 * WEIGHTS + 3 * checkpoint


@pytest.mark.parametrize(
    ("method", "passing"),
    [
        ("LoRA, rank 16", 2 * WEIGHTS),
        ("QLoRA, rank 16", 2 * WEIGHTS),
        ("all weights", 6 * WEIGHTS),
        (SPLIT, 4 * WEIGHTS),
    ],
)
def test_main_memory_is_that_of_the_processes_and_of_what_is_loaded(
    method: str, passing: int
) -> None:
    processes = OVER if method == SPLIT else 1
    assert needs(method).main == processes * PROCESS_BYTES + passing


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "method"), [(16, "LoRA, rank 16"), (0, "all weights")])
def test_a_checkpoint_on_the_disk_is_as_large_as_told(
    rank: int, method: str, tmp_path: Path, tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 256}  # so that names and shapes weigh little
    base = tmp_path / "base"
    make_model(**wide).save_pretrained(base)
    tokenizer.save_pretrained(base)
    train = {"max_steps": 1, "save_steps": 1}
    task = sft_task(tmp_path, base, tokenizer, lora={"rank": rank}, train=train)
    work.perform(task, lambda *_: None)
    folder = Path(task.root) / "checkpoint-1"
    files = [*folder.glob("*model.safetensors"), folder / "optimizer.pt"]
    vocabulary = json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    shape = TINY | wide | {"vocab_size": vocabulary}
    told = sizing.needs(shape, METHODS[method], gpu_bytes=GIB, tokens=64).checkpoint
    assert sum(file.stat().st_size for file in files) == pytest.approx(told, rel=0.1)


# --- how many GPUs -------------------------------------------------------------------------------


def test_more_gpus_do_not_help_what_is_not_split() -> None:
    held = peak("all weights").peak
    assert needs("all weights", held / sizing.USABLE + 1).gpus == 1
    assert needs("all weights", held / sizing.USABLE - 1).gpus == 0


def test_a_split_model_takes_the_fewest_gpus_over_which_it_fits() -> None:
    held = peak(SPLIT, 4).peak
    assert needs(SPLIT, held / sizing.USABLE + 1).gpus == 4
    assert needs(SPLIT, held / sizing.USABLE - 1).gpus == 8


@pytest.fixture
def over_eight() -> Memory:
    return Memory({"weights": 10.0, "optimizer": 60.0, "activations": 5.0}, "micro-batch", True)


@pytest.mark.parametrize(("usable", "gpus"), [(75, 8), (70, 16), (145, 4), (565, 1), (5, 0)])
def test_the_part_that_is_split_falls_with_the_gpus_and_the_rest_stays(
    usable: float, gpus: int, over_eight: Memory
) -> None:
    def held(processes: int) -> float:
        return 5 + 560 / processes

    assert sizing.smallest_count(over_eight, held, usable) == gpus


def test_counts_that_cannot_fit_are_not_rehearsed(over_eight: Memory) -> None:
    asked = []

    def held(processes: int) -> float:
        asked.append(processes)
        return 5 + 560 / processes

    sizing.smallest_count(over_eight, held, 75)
    assert asked == [8]


# --- the table -----------------------------------------------------------------------------------


def test_the_table_has_a_line_for_every_method(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "SHAPES", {"tiny": TINY})
    sizing.main(["--gpu", "1"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "GPUs of 1 GiB" in head
    assert [line.split(" | ")[1].strip() for line in lines] == list(METHODS)


def test_a_size_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sizing.main(["--sizes", "7B"])
    assert "--sizes 7B: known are 0.6B" in capsys.readouterr().err
