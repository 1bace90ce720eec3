"""One of several processes of a training, started by torchrun: `python -m … FOLDER`.

Reads the task from the folder; the first process writes metrics and result into it, and
every one its error. Only the first one speaks.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from ytrainer_core.errors import Cancelled, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.processes import end_with
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME

_PATIENCE = timedelta(minutes=30)
"""How long processes wait for one another: one may hash a large checkpoint."""


def main(folder: Path) -> NoReturn:
    """Perform the task as one process of it; the exit code is that of its failure, or 0."""
    tree = json.loads((folder / TASK_NAME).read_text(encoding="utf-8"))
    for process in filter(None, (tree["parent"], os.getppid())):  # 0: it is on another machine
        end_with(process, YTrainerError.exit_code)
    rank = int(os.environ["RANK"])
    if rank:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the end
    _quiet_libraries()
    try:
        _perform(folder, tree["task"], rank)
    except YTrainerError as error:
        _tell(folder, rank, type(error).__name__, *error.faults)
        _leave(error.exit_code)
    except Exception:
        _tell(folder, rank, "", traceback.format_exc())
        _leave(YTrainerError.exit_code)
    _leave(0)


def _quiet_libraries() -> None:
    """As run.quiet_libraries() in the stage's process; the environment has come from there."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("DeepSpeed", "accelerate.accelerator"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    for module in ("transformers", "torch"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)


def _leave(code: int) -> NoReturn:
    """End at once, without torch's own way out.

    After an error it waits for the other processes; after success gloo's threads, which lose
    their peers one by one, abort the interpreter now and then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _perform(folder: Path, task: Mapping[str, Any], rank: int) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from ytrainer_core.training.deepspeed import compile_nothing
    from ytrainer_core.training.work import TrainingTask, perform

    disable_progress_bar()
    set_verbosity_error()
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        compile_nothing()
    torch.distributed.init_process_group(
        "nccl" if device else "gloo", timeout=_PATIENCE, device_id=device
    )

    def log(metrics: Mapping[str, float], step: int) -> None:
        with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"metrics": dict(metrics), "step": step}) + "\n")

    try:
        result = perform(TrainingTask(**task), log)
        if rank == 0:
            write_json(folder / RESULT_NAME, asdict(result))
    except Cancelled as error:  # no failure: torchrun shall not kill the others for it
        _tell(folder, rank, type(error).__name__, *error.faults)
    torch.distributed.barrier()


def _tell(folder: Path, rank: int, kind: str, *faults: str) -> None:
    write_json(folder / f"{ERROR_NAME}.{rank}", {"kind": kind, "faults": faults})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
