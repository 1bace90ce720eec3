"""A training that stores its checkpoints: `python … FOLDER KIND STEPS ADDRESS PAUSE_SECONDS`.

An empty address stores nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from interrupted import tell_step
from interruption_worker import tiny_job, tiny_model, tiny_rows
from safetensors.torch import save_file

from ytrainer_core.errors import Cancelled
from ytrainer_core.training.engine import train
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints

KEY = "the-work"


def main(folder: Path, kind: str, steps: int, address: str, pause: float) -> int:
    """Go on from what is stored; FOLDER/weights.safetensors in the end, or a checkpoint."""
    torch.set_num_threads(1)
    plan = tiny_job(steps)
    plan = dataclasses.replace(plan, train=plan.train.model_copy(update={"checkpoint_to": address}))
    root = folder / KEY
    root.mkdir(parents=True)
    if address:
        RemoteCheckpoints.of(plan.train, KEY).fetch(root)
    trained, tokenizer = tiny_model(kind)

    def log(metrics: Mapping[str, float], step: int) -> None:
        tell_step(folder, step)
        time.sleep(pause)

    try:
        train(trained, tokenizer, tiny_rows(), plan, checkpoints=root, log=log)
    except Cancelled as error:
        return error.exit_code
    weights = {name: p.detach().contiguous() for name, p in trained.named_parameters()}
    save_file(weights, folder / "weights.safetensors")
    return 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(Path(words[0]), words[1], int(words[2]), words[3], float(words[4])))
