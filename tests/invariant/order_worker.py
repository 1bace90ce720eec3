"""Which rows each optimizer step of a training sees; also one process of several that do.

`torchrun … order_worker.py FOLDER`: trains every task of FOLDER/tasks.json and leaves
NAME-RANK.json, the rows that this process saw.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ytrainer_core.errors import Cancelled
from ytrainer_core.training import work
from ytrainer_core.training.deepspeed import compile_nothing
from ytrainer_core.training.job import Log, TrainResult

ASKED = re.compile(r"What is (\d+)\?")
"""The number in its question names a row."""


def seen_by_step(task: work.TrainingTask, log: Log) -> tuple[list[list[int]], TrainResult | None]:
    """The numbers of the rows that went through the model in each step, in their order.

    The training is the whole of `perform`; only what reaches the model is looked at. The result
    is None where SIGTERM stopped it.
    """
    steps: list[list[int]] = [[]]
    plain = work.train

    def watched(model: Any, tokenizer: Any, *args: Any, **kwargs: Any) -> TrainResult:
        def note(module: Any, _: Any, inputs: Mapping[str, Any]) -> None:
            if module.training:
                text = "".join(map(tokenizer.decode, inputs["input_ids"]))
                steps[-1] += map(int, ASKED.findall(text))

        model.register_forward_pre_hook(note, with_kwargs=True)
        return plain(model, tokenizer, *args, **kwargs)

    hook = register_optimizer_step_post_hook(lambda *_: steps.append([]))
    work.train = watched
    try:
        result = work.perform(task, log)
    except Cancelled:
        result = None
    finally:
        work.train = plain
        hook.remove()
    assert not steps[-1], "rows went through the model after the last step"
    return steps[:-1], result


def main(folder: Path) -> None:
    """Train all tasks, one after the other; with stop_at, SIGTERM comes to the first process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    compile_nothing()
    for name, case in json.loads((folder / "tasks.json").read_text()).items():

        def log(
            metrics: Mapping[str, float], step: int, stop_at: int = case.get("stop_at", 0)
        ) -> None:
            if stop_at and step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        steps, result = seen_by_step(work.TrainingTask(**case["task"]), log)
        resumed_from = result.resumed_from if result else None
        told = {"steps": steps, "resumed_from": resumed_from}
        (folder / f"{name}-{torch.distributed.get_rank()}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # as worker.py does


if __name__ == "__main__":
    main(Path(sys.argv[1]))
