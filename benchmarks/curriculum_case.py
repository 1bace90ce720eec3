"""One seed of the curriculum benchmark, alone in its process: all orders on the same rows.

python -m benchmarks.curriculum_case --case '{"system": "seed", ...}'
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bases, measure
from benchmarks.corpus import Row, load_tokenizer, read_gsm8k
from benchmarks.measure import Case, Figures

LONGEST = 512
"""Longest row in tokens; GSM8K has no longer one at this vocabulary."""

Curve = list[tuple[int, float]]
"""(optimizer steps, held-out loss in nats per token), beginning with step 0."""


def measure_case(case: Case) -> Figures:
    """base: make or find the base model. seed: train every order, each from the base.

    Returns {"base": folder}, or {"curves": {order: Curve}, "tokens": of the rows}.
    """
    if case["system"] == "base":
        return {"base": str(bases.base(case["base"], Path(case["data"])))}
    return _seed(case)


def _seed(case: Case) -> Figures:
    """One sample of rows, rated by the base; one training an order."""
    from transformers import AutoModelForCausalLM

    folder, data = Path(case["base"]), Path(case["data"])
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    _, second = bases.halves(data)
    chats = random.Random(case["seed"]).sample(second, min(case["rows"], len(second)))
    rows = _tokenized(chats, tokenizer)
    held_out = _tokenized(read_gsm8k(data / "gsm8k_test.jsonl", case["held_out"]), tokenizer)
    orders = orders_of(model, rows, case["orders"], case["seed"])
    weights = copy.deepcopy(model.state_dict())
    curves = {}
    for name, order in orders.items():
        model.load_state_dict(weights)
        curves[name] = train_curve(model, tokenizer, [rows[i] for i in order], held_out, case)
    return {"curves": curves, "tokens": sum(len(row["input_ids"]) for row in rows)}


def _tokenized(chats: Sequence[bases.Chat], tokenizer: Any) -> list[Row]:
    rows = bases.chat_rows(tokenizer, chats)
    return [row for row in rows if len(row["input_ids"]) <= LONGEST]


def orders_of(
    model: Any, rows: Sequence[Row], orders: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, list[int]]:
    """Name -> permutation of the rows, from one forward pass of the model.

    orders: name -> fields of OrderConfig.
    """
    import numpy as np

    from ytrainer_core.config import OrderConfig
    from ytrainer_core.curriculum.difficulty import difficulties
    from ytrainer_core.curriculum.order import permutation
    from ytrainer_core.curriculum.signals import SignalBatch
    from ytrainer_core.scoring.signals import token_signals

    found = token_signals(model, rows, max_length=LONGEST)
    signals = SignalBatch(
        nll=np.concatenate([row.nll for row in found]).astype(np.float64),
        entropy=np.concatenate([row.entropy for row in found]).astype(np.float64),
        counts=np.array([len(row.nll) for row in found]),
    )
    alone = np.arange(len(rows))
    permutations = {}
    for name, fields in orders.items():
        config = OrderConfig(**fields)
        rated = difficulties([signals], alone, config, seed)
        permutations[name] = permutation(rated, alone, config, seed).tolist()
    return permutations


def train_curve(
    model: Any, tokenizer: Any, rows: Sequence[Row], held_out: Sequence[Row], case: Case
) -> Curve:
    """Train in place on rows in the given order; the held-out loss from step 0 to the last."""
    from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
    from ytrainer_core.scoring.signals import mean_nll
    from ytrainer_core.training.engine import train
    from ytrainer_core.training.job import TrainJob

    curve = [(0, mean_nll(model, held_out, max_length=LONGEST))]

    def log(metrics: Mapping[str, float], step: int) -> None:
        if "eval_loss" in metrics:
            curve.append((step, metrics["eval_loss"]))

    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(name="cross_entropy"),
        OptimConfig(learning_rate=case["learning_rate"], lr_scheduler="constant", warmup_ratio=0.0),
        TrainConfig(
            num_train_epochs=case["epochs"],
            pack_length=case["pack_length"],
            logging_steps=case["evaluate_every"],
            eval_steps=case["evaluate_every"],
            save_steps=0,
        ),
        seed=case["seed"],
        ordered=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        result = train(
            model,
            tokenizer,
            rows,
            job,
            checkpoints=Path(scratch),
            log=log,
            eval_rows=held_out,
        )
    if curve[-1][0] < result.steps:
        curve.append((result.steps, mean_nll(model, held_out, max_length=LONGEST)))
    return curve


if __name__ == "__main__":
    measure.answer(measure_case)
