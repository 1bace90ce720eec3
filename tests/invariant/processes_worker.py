"""One process of several trainings: `torchrun … processes_worker.py FOLDER ENGINE`.

FOLDER holds the base model, rows.json and cases.json. Each case leaves NAME.pt (the weights,
gathered) and NAME.json (what the training told).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ytrainer_core.config import (
    DataConfig,
    LaunchConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from ytrainer_core.errors import Cancelled
from ytrainer_core.training.deepspeed import (
    compile_nothing,
    deepspeed_settings,
    gathered_state,
    split_while_loading,
)
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.model import add_lora, load_model, load_tokenizer

ENGINES = {
    "ddp": LaunchConfig(processes=2),
    "zero2": LaunchConfig(processes=2, engine="deepspeed", zero=2),
    "zero3": LaunchConfig(processes=2, engine="deepspeed", zero=3),
}


def train_case(folder: Path, engine: str, case: dict[str, Any]) -> None:
    """Train as the case says; with stop_at, SIGTERM comes to the first process in that step."""
    base, rank = folder / "base", torch.distributed.get_rank()
    settings = deepspeed_settings(ENGINES[engine])
    lora = LoraConfig(rank=4, dropout=0.1 if case["kind"] == "dropout" else 0.0)
    with split_while_loading(settings, torch.float32):
        model = load_model(base, ModelConfig(name_or_path=str(base)), dtype=torch.float32)
        if case["kind"] != "full":
            torch.manual_seed(0)
            model = add_lora(model, lora)
    job = TrainJob(
        DataConfig(max_length=32),
        ObjectiveConfig(**case["objective"]),
        OptimConfig(**case["optim"]),
        TrainConfig(**case["train"]),
        seed=7,
        deepspeed=settings,
    )
    told: list[Any] = []
    state: dict[str, torch.Tensor] = {}

    def log(metrics: Mapping[str, float], step: int) -> None:
        told.append({"step": step, **metrics})
        if step == case.get("stop_at"):
            os.kill(os.getpid(), signal.SIGTERM)

    def save() -> None:
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        gathered = gathered_state(model, only_trained=case["kind"] != "full")
        state.update(own if gathered is None else gathered)

    rows = json.loads((folder / "rows.json").read_text())
    outcome: dict[str, Any] = {}
    try:
        result = train(
            model,
            load_tokenizer(base),
            rows[: case["rows"]],
            job,
            checkpoints=folder / engine / case["folder"],
            log=log,
            eval_rows=rows[:5],
            save=save,
        )
        outcome = {
            "target_tokens": result.target_tokens,
            "tokens": result.tokens,
            "resumed_from": result.resumed_from,
        }
    except Cancelled:
        outcome = {"cancelled": True}
    if rank == 0:
        torch.save(state, folder / engine / f"{case['name']}.pt")
        (folder / engine / f"{case['name']}.json").write_text(json.dumps({**outcome, "log": told}))


def main(folder: Path, engine: str) -> None:
    """Train every case of cases.json for this engine, one after the other."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    compile_nothing()
    for case in json.loads((folder / "cases.json").read_text())[engine]:
        train_case(folder, engine, case)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # as worker.py does


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
