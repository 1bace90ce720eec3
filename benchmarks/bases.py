"""Base models for benchmarks, trained once on text that no benchmark measures on.

python -m benchmarks.bases                all of them: trains what is missing, prints the folders

A base reads general text once and the first half of GSM8K several times; the second half is for
the benchmarks. Every digit is a token of its own, so that a wrong number is a wrong token, not
another word. `pretrained` is a published model as it is (benchmarks/pretrained.py), `tuned` the
same after rows of that first half. Finished bases stay below `home()/benchmarks/bases`, one folder
per recipe.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks import measure, pretrained
from benchmarks.corpus import VOCABULARY, Row, read_gsm8k
from benchmarks.measure import Figures

Size = Literal["small", "large", "general", "pretrained", "tuned"]
Chat = list[dict[str, str]]

LONGEST = 640
"""Longest piece of general text in tokens; no GSM8K row is longer."""

FACTS = pretrained.FACTS
"""File beside a finished base: its recipe, size, tokens read and last loss."""

_VERSION = 1
"""Counts changes of the code below that change what a recipe gives."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a base is trained, whatever it reads."""

    learning_rate: float
    """Peak; cosine to zero."""

    pack_length: int = 640
    """Tokens of an optimizer step."""

    dtype: str = "bfloat16"
    """Precision of the computation; the weights are float32."""

    warmup_ratio: float = 0.05
    adam_beta2: float = 0.99
    weight_decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe(Fit):
    """All that decides what a base trained from nothing becomes, besides the data."""

    shape: dict[str, Any]
    """Fields of ArchitectureConfig."""

    gsm8k_epochs: int = 2
    """Times that the first half of GSM8K is read."""

    general_characters: int = 100_000
    """Text of every general source that is read, once."""

    sources: tuple[str, ...] = (
        "wiki_demo.txt",
        "c4_demo.jsonl",
        "alpaca_en_demo.json",
        "dpo_en_demo.json",
    )
    """Files of general text."""


@dataclass(frozen=True, kw_only=True)
class Tuned(Fit):
    """All that decides what the published model becomes when it is tuned."""

    model: str = pretrained.WHEEL_SHA256

    rows: int = 1000
    """Rows of the first half of GSM8K, from its beginning, whose answers are trained once."""


_SMALL = Recipe(
    shape={
        "vocab_size": VOCABULARY,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 48,
    },
    learning_rate=2e-3,
)

RECIPES: dict[Size, Recipe | Tuned] = {
    "small": _SMALL,
    "general": replace(_SMALL, gsm8k_epochs=0, general_characters=1_000_000),
    "large": Recipe(
        shape={
            "vocab_size": VOCABULARY,
            "hidden_size": 384,
            "intermediate_size": 1152,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 64,
        },
        learning_rate=1.2e-3,
    ),
    "tuned": Tuned(learning_rate=1e-4, pack_length=2048, weight_decay=0.0),
}
"""small, large: bodies of 2.7 M and 8.8 M parameters; general has read no GSM8K, and more of the
rest; tuned: the published model of 135 M, all its weights trained."""


def halves(data: Path = measure.DATA) -> tuple[list[Chat], list[Chat]]:
    """GSM8K's training conversations in file order: what the bases read, what they never saw."""
    chats = read_gsm8k(data / "gsm8k_train.jsonl", 10**9)
    middle = len(chats) // 2
    return chats[:middle], chats[middle:]


def base(size: Size, data: Path = measure.DATA) -> Path:
    """Folder of the base model and its tokenizer; trained now where it is not there yet."""
    from ytrainer_core.files import atomic_folder, home, sha256_json

    if size == "pretrained":
        return pretrained.smollm2()
    recipe = RECIPES[size]
    key = sha256_json([_VERSION, asdict(recipe), _digests(recipe, data)])[:16]
    folder = home() / "benchmarks" / "bases" / f"{size}-{key}"
    if not folder.exists():
        with atomic_folder(folder) as scratch:
            started = time.monotonic()
            if isinstance(recipe, Tuned):
                model, tokenizer, about = _tune(recipe, data)
            else:
                model, tokenizer, about = _train(recipe, data)
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            about |= {
                "recipe": asdict(recipe),
                "parameters": sum(p.numel() for p in model.parameters()),
                "seconds": round(time.monotonic() - started),
            }
            (scratch / FACTS).write_text(json.dumps(about, indent=2) + "\n")
    return folder


def _digests(recipe: Recipe | Tuned, data: Path) -> dict[str, str]:
    from ytrainer_core.files import sha256_file

    general = recipe.sources if isinstance(recipe, Recipe) else ()
    files = [data / name for name in ("gsm8k_train.jsonl", *general)]
    return {file.name: sha256_file(file) for file in files if file.exists()}


def _train(recipe: Recipe, data: Path) -> tuple[Any, Any, Figures]:
    """A tokenizer and a model from nothing, trained; and what it has read."""
    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.training.scratch import new_model, train_tokenizer

    general = [
        text
        for name in recipe.sources
        for text in shortened(_texts(data / name), recipe.general_characters)
    ]
    chats, _ = halves(data)
    learned = [*general, *(turn["content"] for chat in chats for turn in chat)]
    shape = ArchitectureConfig(**recipe.shape)
    tokenizer = train_tokenizer(between_digits(learned), shape)
    model = new_model(shape, tokenizer, recipe.seed)
    rows = _rows(tokenizer, general, chats, recipe.gsm8k_epochs)
    return model, tokenizer, fit(model, tokenizer, rows, recipe)


def _tune(recipe: Tuned, data: Path) -> tuple[Any, Any, Figures]:
    """The published model after answers of GSM8K; and what it has read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pretrained.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chats, _ = halves(data)
    figures = fit(model, tokenizer, chat_rows(tokenizer, chats[: recipe.rows]), recipe)
    return model.to(torch.bfloat16), tokenizer, figures


def chat_rows(tokenizer: Any, chats: Sequence[Chat]) -> list[Row]:
    """Conversations with their answers as targets."""
    from ytrainer_core.data.tokenize import tokenize_rows

    found = tokenize_rows(
        [(chat, "") for chat in chats], tokenizer, train_on="all_turns", system_prompt=""
    )
    return [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in found]


def between_digits(texts: Sequence[str]) -> list[str]:
    """The pieces of text between digits: what a tokenizer learns of these never joins digits."""
    return [piece for text in texts for piece in re.split(r"\d+", text) if piece]


def shortened(texts: Sequence[str], characters: int) -> list[str]:
    """The first texts that together have `characters`; the last of them is cut there."""
    kept = []
    for text in texts:
        if characters <= 0:
            break
        kept.append(text[:characters])
        characters -= len(text)
    return kept


def _texts(file: Path) -> list[str]:
    """The documents of a file of general text; none where it is missing."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        return text.splitlines()
    if file.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines()]
    return [_plain(row) for row in json.loads(text)]


def _plain(row: dict[str, Any]) -> str:
    """An instruction, or a question with its chosen answer, as plain text."""
    if "instruction" in row:
        parts = [row["instruction"], row["input"], row["output"]]
    else:
        parts = [*(turn["value"] for turn in row["conversations"]), row["chosen"]["value"]]
    return "\n".join(part for part in parts if part)


def _rows(tokenizer: Any, general: Sequence[str], chats: Sequence[Chat], epochs: int) -> list[Row]:
    """Rows whose every token is trained, as in pre-training: general text once, chats `epochs`."""
    from ytrainer_core.data.tokenize import tokenize_rows

    found = tokenize_rows(
        [*(([], text) for text in general), *((chat, "") for chat in chats)],
        tokenizer,
        train_on="all_turns",
        system_prompt="",
    )
    ids = [list(row.input_ids) for row in found]
    documents, talks = ids[: len(general)], ids[len(general) :]
    pieces = [
        document[start : start + LONGEST]
        for document in documents
        for start in range(0, len(document), LONGEST)
    ]
    kept = [piece for piece in (*pieces, *(talks * epochs)) if len(piece) > 1]
    return [{"input_ids": piece, "labels": piece} for piece in kept]


def fit(model: Any, tokenizer: Any, rows: Sequence[Row], recipe: Fit) -> Figures:
    """Train in place with ytrainer's own engine; tokens read, last logged loss in nats."""
    import torch

    from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
    from ytrainer_core.training.engine import train
    from ytrainer_core.training.job import TrainJob

    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(name="cross_entropy"),
        OptimConfig(
            learning_rate=recipe.learning_rate,
            lr_scheduler="cosine",
            warmup_ratio=recipe.warmup_ratio,
            adam_beta2=recipe.adam_beta2,
            weight_decay=recipe.weight_decay,
        ),
        TrainConfig(
            num_train_epochs=1,
            pack_length=recipe.pack_length,
            gradient_accumulation_steps=1,
            logging_steps=50,
            save_steps=0,
        ),
        seed=recipe.seed,
        dtype=getattr(torch, recipe.dtype),
    )
    with tempfile.TemporaryDirectory() as scratch:
        result = train(
            model,
            tokenizer,
            rows,
            job,
            checkpoints=Path(scratch),
            log=lambda metrics, step: None,
            title="base model",
        )
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    return {"tokens": sum(len(row["input_ids"]) for row in rows), "last_loss": losses[-1]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the folder of each base."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=measure.DATA)
    options.add_argument("--size", choices=get_args(Size), action="append")
    chosen = options.parse_args(arguments)
    for size in chosen.size or get_args(Size):
        print(base(size, chosen.data), flush=True)


if __name__ == "__main__":
    main()
