"""Shared by all tests: a home of their own, one thread, a tiny tokenizer and tiny real models."""

from __future__ import annotations

import inspect
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import SHAPE

HOME = "YTRAINER_HOME"


for chatty in ("werkzeug", "botocore"):
    # A line for every request would push the reason of a failure off the end of CI's output.
    logging.getLogger(chatty).setLevel(logging.WARNING)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background: the processes that tests interrupt would not hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _nothing_from_outside() -> Iterator[None]:
    """No variable of the person who runs the tests reaches them.

    One thread: models this small gain nothing from two, and where other work shares the
    cores, threads that wait for each other made one forward pass 200 times slower.
    """
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("YTRAINER_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _kfp_reads_no_source() -> None:
    """kfp asks for its caller's name with the source of every frame of the stack.

    Below pytest, with torch imported, this made seconds of a compilation of a third of one.
    """
    from kfp.dsl import pipeline_task

    pipeline_task.inspect = SimpleNamespace(stack=lambda: inspect.stack(context=0))


@pytest.fixture(autouse=True)
def _home(_nothing_from_outside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home per test; a module that made one for all of its tests keeps it."""
    if HOME not in os.environ:
        monkeypatch.setenv(HOME, str(tmp_path / "home"))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE of 300 entries with the ChatML template; pad and eos are <|endoftext|>."""
    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.training.scratch import train_tokenizer

    texts = ["What is the answer to the question? The answer is that the sum of two is four."] * 9
    return train_tokenizer(texts, ArchitectureConfig(vocab_size=300))


@pytest.fixture(scope="session")
def make_model(tokenizer: Any) -> Callable[..., Any]:
    """make_model(seed=0, attention="sdpa", **changes of tiny.SHAPE) -> Qwen3, fp32."""
    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.training.scratch import new_model

    def make(seed: int = 0, attention: str = "sdpa", **changes: Any) -> Any:
        model = new_model(ArchitectureConfig(**(SHAPE | changes)), tokenizer, seed).cpu()
        model.set_attn_implementation(attention)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[dict[str, list[int]]]]:
    """make_rows(lengths, prompt=2, seed=0) -> random tokenized rows, labels after the prompt."""
    import torch

    def make(lengths: Sequence[int], prompt: int = 2, seed: int = 0) -> list[dict[str, list[int]]]:
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for length in lengths:
            ids = torch.randint(3, 290, (length,), generator=generator).tolist()
            rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
        return rows

    return make


@pytest.fixture(scope="session")
def plain_signals() -> Callable[..., tuple[Any, Any, Any]]:
    """plain_signals(model, row) -> (nll, entropy, top token) of one row alone, full logits."""
    import torch

    def signals(model: Any, row: dict[str, list[int]]) -> tuple[Any, Any, Any]:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        trained = labels[1:] != -100
        nll = -log_p.gather(1, ids[0, 1:, None]).squeeze(1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return nll[trained], entropy[trained], log_p.argmax(-1)[trained]

    return signals


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Any]:
    """make_job(objective=, optim=, lora=, max_length=, seed=, ordered=, **TrainConfig) -> TrainJob.

    Constant learning rate without warm-up, a log row per step, no checkpoints.
    """
    from ytrainer_core.config import (
        DataConfig,
        LoraConfig,
        ObjectiveConfig,
        OptimConfig,
        TrainConfig,
    )
    from ytrainer_core.training.job import TrainJob

    def make(
        objective: dict[str, Any] | None = None,
        optim: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        max_length: int = 32,
        seed: int = 7,
        ordered: bool = False,
        attention: str = "auto",
        **train: Any,
    ) -> Any:
        steady = {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0}
        return TrainJob(
            DataConfig(max_length=max_length),
            ObjectiveConfig(**(objective or {})),
            OptimConfig(**(steady | (optim or {}))),
            TrainConfig(**({"logging_steps": 1, "save_steps": 0} | train)),
            seed,
            ordered=ordered,
            attn_implementation=attention,
            lora=LoraConfig(**(lora or {"rank": 0})),
        )

    return make


@pytest.fixture(scope="session")
def base_folder(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tokenizer: Any
) -> Path:
    """A base model's folder as from_pretrained() reads it. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("base")
    make_model(seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
