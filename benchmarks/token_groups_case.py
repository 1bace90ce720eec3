"""One case of the token group benchmark, alone in its process: a curve of held-out loss over time.

python -m benchmarks.token_groups_case --case '{"system": "naive", ...}'
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.corpus import VOCABULARY, Row, load_rows, load_tokenizer, new_model, prepare
from benchmarks.measure import Case, Figures

SHAPE = "2.7m"
GROUP = 10
"""Target tokens of one optimizer step, as published."""

LONGEST = 512
"""Longest row in tokens; the corpus has no longer one at this vocabulary."""

GENERAL = "c4_demo.jsonl"
"""General text that the base model has read once; without the file it has random weights."""

BASE = {"learning_rate": 2e-3, "epochs": 1, "pack_length": 256}
"""How the base is trained on the general text: cross-entropy, one step a pack."""


class Clock:
    """Seconds of training with evaluations cut out, and the held-out loss at each of them.

    The trainer logs its loss, evaluates, and logs that: what lies between is evaluation.
    """

    def __init__(self) -> None:
        self.curve: list[tuple[float, int, float]] = []
        self._started = self._logged = time.monotonic()
        self._evaluating = 0.0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """The trainer's log callback."""
        now = time.monotonic()
        if "eval_loss" in metrics:
            self.evaluated(step, metrics["eval_loss"], since=self._logged)
        self._logged = time.monotonic() if "eval_loss" in metrics else now

    def evaluated(self, step: int, loss: float, *, since: float) -> None:
        """Note a loss whose evaluation began at `since` and ends now."""
        self.curve.append((since - self._started - self._evaluating, step, loss))
        self._evaluating += time.monotonic() - since

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return time.monotonic() - self._started - self._evaluating


def measure_case(case: Case) -> Figures:
    """Train as the case says. Returns seconds, steps and curve [(seconds, step, nats)]."""
    return {"base": _make_base, "naive": _naive, "exact": _ours, "fast": _ours}[case["system"]](
        case
    )


def _make_base(case: Case) -> Figures:
    """Tokenizer, rows and a base model that has read the general text."""
    import torch

    folder, data = Path(case["folder"]), Path(case["data"])
    texts = _general(data)
    prepare(
        folder,
        data,
        rows=case["rows"],
        held_out=case["held_out"],
        longest=LONGEST,
        texts=texts,
    )
    tokenizer, model = load_tokenizer(folder), new_model(SHAPE, VOCABULARY)
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [{"input_ids": ids, "labels": ids} for ids in pieces if len(ids) > 1]
    seconds = 0.0
    if rows:
        seconds = _train(
            model,
            tokenizer,
            rows,
            {**BASE, **case.get("base", {}), "objective": "cross_entropy", "accumulation": 1},
        ).seconds
    torch.save(model.state_dict(), folder / "base.pt")
    return {
        "seconds": seconds,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "rows": len(load_rows(folder, "train")),
        "held_out": len(load_rows(folder, "test")),
        "targets": sum(_targets(row) for row in load_rows(folder, "train")),
        "loss": _held_out_loss(model, load_rows(folder, "test")),
    }


def _general(data: Path) -> list[str]:
    """Documents of general text."""
    file = data / GENERAL
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line)["text"] for line in lines]


def _targets(row: Row) -> int:
    return sum(label != -100 for label in row["labels"][1:])


def group_count(rows: Sequence[Row]) -> int:
    """Token groups, and so optimizer steps, of one epoch."""
    return sum(-(-_targets(row) // GROUP) for row in rows)


def _start(case: Case) -> tuple[Any, Any, list[Row], list[Row]]:
    """Base model (with adapters for LoRA), tokenizer, training rows, held-out rows."""
    import torch

    folder = Path(case["folder"])
    model = new_model(SHAPE, VOCABULARY)
    model.load_state_dict(torch.load(folder / "base.pt", weights_only=True))
    if case["method"] == "lora":
        from ytrainer_core.config import LoraConfig
        from ytrainer_core.training.model import add_lora

        torch.manual_seed(0)
        model = add_lora(model, LoraConfig(rank=16, alpha=32))
    return model, load_tokenizer(folder), load_rows(folder, "train"), load_rows(folder, "test")


def _naive(case: Case) -> Figures:
    model, _, rows, held_out = _start(case)
    every = max(1, case["epochs"] * group_count(rows) // case["evaluations"])
    clock = Clock()

    def after(step: int) -> None:
        if step % every == 0:
            since = time.monotonic()
            clock.evaluated(step, _held_out_loss(model, held_out), since=since)

    steps = naive_token_groups(model, rows, case["learning_rate"], case["epochs"], after)
    return _figures(clock, clock.seconds, steps, model, held_out)


def naive_token_groups(
    model: Any,
    rows: Sequence[Row],
    learning_rate: float,
    epochs: int,
    after: Callable[[int], None] = lambda step: None,
) -> int:
    """Token groups the plain way; returns the optimizer steps.

    Departure from the published trainer: its last token of each group and the remainder are
    trained too, so that the losses can be compared with ours.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from ytrainer_core.config import NlirgConfig
    from ytrainer_core.objectives.nlirg import nlirg_weights

    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
    step = 0
    for _ in range(epochs):
        for row in rows:
            ids = torch.tensor([row["input_ids"]], device=model.device)
            labels = torch.tensor(row["labels"], device=model.device)
            targets = (labels[1:] != -100).nonzero().squeeze(1) + 1
            for group in targets.split(GROUP):
                logits = model(input_ids=ids, use_cache=False).logits[0]  # [seq, vocab]
                nll = cross_entropy(logits[group - 1].float(), labels[group], reduction="none")
                weights = nlirg_weights(nll.detach(), NlirgConfig())
                loss = (weights * nll).sum() / len(group)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                after(step)
    return step


def _ours(case: Case) -> Figures:
    model, tokenizer, rows, held_out = _start(case)
    clock = Clock()
    result = _train(model, tokenizer, rows, case, held_out, clock)
    return _figures(clock, clock.seconds, result.steps, model, held_out)


def _train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    case: Case,
    held_out: Sequence[Row] = (),
    clock: Clock | None = None,
) -> Any:
    """A training by ytrainer's engine, in packs or in token groups."""
    from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
    from ytrainer_core.training.engine import train
    from ytrainer_core.training.job import TrainJob

    groups = case.get("system") == "exact"
    every = case.get("evaluate_every") or 0
    if groups:
        every = max(1, case["epochs"] * group_count(rows) // case["evaluations"])
    options = {"batching": "token_groups", "token_group_size": GROUP} if groups else {}
    if not groups:
        options |= {k: case[k] for k in ("pack_length",)}
    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(name=case.get("objective", "nlirg")),
        OptimConfig(
            learning_rate=case["learning_rate"],
            lr_scheduler=case.get("lr_scheduler", "constant"),
            warmup_ratio=case.get("warmup_ratio", 0.0),
            adam_beta2=case.get("adam_beta2", 0.999),
        ),
        TrainConfig(
            num_train_epochs=case["epochs"],
            gradient_accumulation_steps=case.get("accumulation", 1),
            logging_steps=every or 100,
            eval_steps=every,
            save_steps=0,
            **options,
        ),
        seed=0,
        ordered=groups,
    )
    with tempfile.TemporaryDirectory() as scratch:
        return train(
            model,
            tokenizer,
            rows,
            job,
            checkpoints=Path(scratch),
            log=clock.log if clock else lambda metrics, step: None,
            eval_rows=held_out if every else (),
        )


def _held_out_loss(model: Any, rows: Sequence[Row]) -> float:
    from ytrainer_core.scoring.signals import mean_nll

    return mean_nll(model, rows, max_length=LONGEST)


def _figures(
    clock: Clock, seconds: float, steps: int, model: Any, held_out: Sequence[Row]
) -> Figures:
    last = _held_out_loss(model, held_out)
    curve = [*clock.curve, (seconds, steps, last)]
    return {"seconds": seconds, "steps": steps, "loss": last, "curve": curve}


if __name__ == "__main__":
    measure.answer(measure_case)
