"""Models and trainings small enough for thousands of tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ytrainer_core.training.work import TrainingTask

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
"""Fields of ArchitectureConfig, and of transformers' configs. Weights are ten times larger than
usual, so that a token depends visibly on all before it."""


def sft_task(folder: Path, base: Path, tokenizer: Any, **sections: dict[str, Any]) -> TrainingTask:
    """TrainingTask of sft on 24 short conversations, all weights; its root is folder/work."""
    from ytrainer_core.config import SftConfig, narrow
    from ytrainer_core.data.prepare import prepare_corpus
    from ytrainer_core.training.model import base_digest
    from ytrainer_core.training.work import TrainingTask

    root = folder / "work"
    root.mkdir(parents=True)
    conversations = [
        [
            {"role": "user", "content": f"What is {i} and {i}?"},
            {"role": "assistant", "content": f"The answer is {2 * i}."},
        ]
        for i in range(24)
    ]
    data = folder / "train.json"
    data.write_text(json.dumps([{"messages": turns} for turns in conversations]))
    tree: dict[str, Any] = {
        "model": {"name_or_path": str(base)},
        "data": {"train": str(data), "max_length": 64},
        "lora": {"rank": 0},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    config = narrow(SftConfig, tree)
    corpus = prepare_corpus(config.data, folder / "corpus", tokenizer=tokenizer, seed=0)
    reference = {"name_or_path": str(base), "revision": "", "sha256": base_digest(base)}
    return TrainingTask(
        stage="sft",
        config=config.model_dump(mode="json"),
        corpus=str(corpus.folder),
        data_sha256=corpus.manifest["sha256"],
        order_file="",
        base=str(base),
        base_reference=reference,
        root=str(root),
        run_id="",
    )
