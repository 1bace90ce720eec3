"""Rows and models of the benchmarks: GSM8K as chat, Qwen3 shapes with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchmarkError

Row = dict[str, list[int]]
"""input_ids and labels of one conversation; answers carry labels."""

VOCABULARY = 4096
"""Entries of the byte-level BPE that is learned from the corpus itself."""

QWEN_VOCABULARY = 151_936
"""Entries of the published Qwen3 vocabulary."""

SHAPES: dict[str, dict[str, Any]] = {
    "2.7m": {
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 48,
        "max_position_embeddings": 2048,
    },
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
"""Qwen3's published dimensions (its config.json), and a body of 2.65 M parameters for a CPU."""

_PUBLISHED = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def read_gsm8k(file: Path, limit: int) -> list[list[dict[str, str]]]:
    """The first `limit` conversations of a GSM8K file."""
    if not file.exists():
        raise BenchmarkError(
            f"{file} is missing. Put GSM8K's train and test files (github.com/openai/"
            "grade-school-math) there as gsm8k_train.jsonl and gsm8k_test.jsonl, or say --data."
        )
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(limit), strict=False)]
    return [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in rows
    ]


def prepare(
    folder: Path, data: Path, *, rows: int, held_out: int, longest: int, texts: Sequence[str] = ()
) -> None:
    """Write tokenizer, train.json and test.json into a folder: what all cases read.

    rows, held_out: conversations taken from the two files; those over `longest` tokens are
    left out. texts: further text that the tokenizer also learns from.
    """
    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.data.tokenize import tokenize_rows
    from ytrainer_core.training.scratch import train_tokenizer

    train = read_gsm8k(data / "gsm8k_train.jsonl", 10**9)
    learned = [turn["content"] for row in train for turn in row]
    tokenizer = train_tokenizer([*learned, *texts], ArchitectureConfig(vocab_size=VOCABULARY))
    tokenizer.save_pretrained(folder)
    for name, chats in (
        ("train", train[:rows]),
        ("test", read_gsm8k(data / "gsm8k_test.jsonl", held_out)),
    ):
        found = tokenize_rows(
            [(chat, "") for chat in chats], tokenizer, train_on="all_turns", system_prompt=""
        )
        kept: list[Row] = [
            {"input_ids": list(row.input_ids), "labels": list(row.labels)}
            for row in found
            if len(row.input_ids) <= longest
        ]
        (folder / f"{name}.json").write_text(json.dumps(kept))


def load_rows(folder: Path, name: str) -> list[Row]:
    """The rows that prepare() wrote."""
    rows: list[Row] = json.loads((folder / f"{name}.json").read_text())
    return rows


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that prepare() wrote."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def count(rows: Sequence[Row]) -> tuple[int, int]:
    """(tokens, target tokens) of rows; nothing predicts a row's first token."""
    tokens = sum(len(row["input_ids"]) for row in rows)
    return tokens, sum(label != -100 for row in rows for label in row["labels"][1:])


def new_model(shape: str, vocabulary: int, *, seed: int = 0, bf16: bool = False) -> Any:
    """A Qwen3 model with random weights, on the GPU where there is one."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=vocabulary, **(_PUBLISHED | SHAPES[shape]))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if bf16 else torch.float32)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
