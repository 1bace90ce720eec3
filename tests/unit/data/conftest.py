"""A tiny byte-level tokenizer, built in-process, and files to read: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_examples import MARKED, UNMARKED
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 400


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str | None], PreTrainedTokenizerFast]:
    """template -> tokenizer."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the answer of the user is what the assistant says"] * 50, trainer)

    def make(template: str | None) -> PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(backend.to_str()),
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def marked(make_tokenizer: Callable[[str | None], Any]) -> PreTrainedTokenizerFast:
    return make_tokenizer(MARKED)


@pytest.fixture(scope="session")
def unmarked(make_tokenizer: Callable[[str | None], Any]) -> PreTrainedTokenizerFast:
    return make_tokenizer(UNMARKED)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / "home"))


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows (objects, or strings as they are) to a .jsonl and give its path."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> str:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write
