"""One case of the quality benchmark: a base model reads rows with planted errors and scores them.

python -m benchmarks.quality_case --case '{"size": "small", ...}'
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import bases, measure, planting
from benchmarks.corpus import Row
from benchmarks.measure import Case, Figures
from benchmarks.planting import Span

WITH_PROMPT = " + ifd"
"""Ending of a score that also looks at the loss without the prompt."""

WRONG_PLACE = "wrong_number"
"""The kind of error whose place is a single one, so that spans can be measured by it."""


SPAN_RULES = ("surprise", "published")
"""As score.spans."""

BASES: dict[str, bases.Size] = {"folded": "general"}
"""Cases whose rows are read out of fold -> the base that is tuned for it."""

FOLDS = 2
FOLD_EPOCHS = 3
FOLD_FIT = bases.Fit(learning_rate=1e-3)


def measure_case(case: Case) -> Figures:
    """Scores of every row by every method, the rows' kinds, and where spans lie.

    Returns kinds and scores in the order of the rows, places: per row of WRONG_PLACE the planted
    characters and, by SPAN_RULES, those of its spans, most severe first; loss in nats per target.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ytrainer_core.config import ScoreConfig
    from ytrainer_core.scoring.judged import judge_corpus
    from ytrainer_core.scoring.scores import corpus_statistics
    from ytrainer_core.scoring.store import score_rows

    folder = bases.base(BASES.get(case["size"], case["size"]), Path(case["data"]))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = planted_rows(case)
    tokens = bases.chat_rows(tokenizer, [row.chat for row in rows])
    config = ScoreConfig(ifd=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        read = partial(score_rows, folder=Path(scratch), free=True, title=f"{case['size']} base")
        if case["size"] in BASES:
            signals = _out_of_fold(folder, tokenizer, tokens, read, case["seed"])
        else:
            signals = read(AutoModelForCausalLM.from_pretrained(folder), tokens, key="rows")
        statistics = corpus_statistics(signals, len(tokenizer))
        scores = judge_corpus(signals, statistics, config).scores
        scores[f"combined{WITH_PROMPT}"] = scores["combined"]
        scores["combined"] = judge_corpus(_one_pass(signals), statistics, ScoreConfig()).scores[
            "combined"
        ]
        seconds = time.monotonic() - started
        places = [
            {
                "planted": row.span,
                "spans": {
                    rule: _spans(tokenizer, tokens[i], signals[i], statistics, rule)
                    for rule in SPAN_RULES
                },
            }
            for i, row in enumerate(rows)
            if row.kind == WRONG_PLACE
        ]
    about = json.loads((folder / bases.FACTS).read_text())
    return {
        "kinds": [row.kind for row in rows],
        "scores": {name: values.tolist() for name, values in scores.items()},
        "places": places,
        "loss": statistics.nll_mean,
        "seconds": seconds,
        "parameters": about["parameters"],
        "trained_tokens": about["tokens"],
    }


def _out_of_fold(
    folder: Path, tokenizer: Any, tokens: Sequence[Row], read: Any, seed: int
) -> Sequence[Any]:
    """Signals of each row by the base after it was tuned on the other fold, errors and all."""
    from transformers import AutoModelForCausalLM

    from ytrainer_core.scoring.folds import FoldedSignals, dealt

    fold_of = dealt(len(tokens), FOLDS, seed)
    tables = []
    for fold in range(FOLDS):
        model = AutoModelForCausalLM.from_pretrained(folder)
        others = [row for row, of in zip(tokens, fold_of, strict=True) if of != fold]
        bases.fit(model, tokenizer, others * FOLD_EPOCHS, FOLD_FIT)
        mine = [row for row, of in zip(tokens, fold_of, strict=True) if of == fold]
        tables.append(read(model, mine, key=str(fold)))
    return FoldedSignals(fold_of, tables)


def _one_pass(signals: Iterable[Any]) -> Iterator[Any]:
    """The signals without the loss of the answers alone, which takes a second pass."""
    return (replace(row, free_nll=None) for row in signals)


def _spans(tokenizer: Any, row: Row, signals: Any, statistics: Any, rule: Any) -> list[Span]:
    """The suspicious spans of a row in characters of its answer, most severe first."""
    from ytrainer_core.config import ScoreConfig
    from ytrainer_core.scoring.quality import row_quality

    ends = token_ends(tokenizer, [row["input_ids"][at] for at in signals.positions])
    spans = row_quality(signals, statistics, ScoreConfig(spans=rule)).spans
    return [(ends[start], ends[end]) for start, end in spans]


def planted_rows(case: Case) -> list[planting.Row]:
    """The half that no base has read, with errors in it."""
    _, unseen = bases.halves(Path(case["data"]))
    chats = unseen[: case["rows"] or None]
    return planting.plant(chats, case["share"], case["seed"])


def token_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """[1 + tokens]: characters of the text before each token, and of all of it."""
    return [
        len(tokenizer.decode(ids[:count], skip_special_tokens=True))
        for count in range(len(ids) + 1)
    ]


def overlap(first: Span, second: Span) -> float:
    """Intersection over union of two spans of characters."""
    shared = max(0, min(first[1], second[1]) - max(first[0], second[0]))
    union = first[1] - first[0] + second[1] - second[0] - shared
    return shared / union if union else 0.0


if __name__ == "__main__":
    measure.answer(measure_case)
