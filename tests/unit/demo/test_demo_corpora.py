"""The demo's own corpora pass the checks with the budget that the demo sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ytrainer_core.config import FinetuneConfig, narrow
from ytrainer_core.data import prepare_corpus
from ytrainer_core.data.corpus import SPLITS
from ytrainer_core.demo.recipe import FINETUNE
from ytrainer_core.demo.resources import locate


def test_only_what_is_planted_is_quarantined(tokenizer: Any, tmp_path: Path) -> None:
    data = narrow(FinetuneConfig, FINETUNE).data
    files = {split: tuple(locate(name) for name in getattr(data, split)) for split in SPLITS}
    # This tokenizer cuts texts into more tokens than the demo's.
    data = data.model_copy(update={**files, "max_length": 4096, "max_rows": 700})
    corpus = prepare_corpus(data, tmp_path / "corpus", tokenizer=tokenizer, seed=42)
    counts = corpus.manifest["counts"]
    assert 0 < counts["quarantined"] < 0.15 * 650
    planted = {"exact_duplicate", "empty_answer", "contradicting_answers"}
    assert planted <= set(counts["rules"]) and "template_tokens" not in counts["rules"]
    assert counts["general"] > 300 and counts["replay"] > 600
