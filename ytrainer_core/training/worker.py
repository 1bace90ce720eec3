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
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from ytrainer_core.errors import Cancelled, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.processes import end_with
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME

_PATIENCE = timedelta(minutes=30)
"""How long processes wait for one another: one may hash a large checkpoint."""


def main(folder: Path) -> int:
    """Perform the task as one process of it; the exit code is that of its failure, or 0."""
    tree = json.loads((folder / TASK_NAME).read_text(encoding="utf-8"))
    for process in (tree["parent"], os.getppid()):
        end_with(process, YTrainerError.exit_code)
    rank = int(os.environ["RANK"])
    if rank:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the end
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        _perform(folder, tree["task"], rank)
    except Cancelled as error:  # no failure: torchrun shall not kill the others for it
        _tell(folder, rank, type(error).__name__, *error.faults)
    except YTrainerError as error:
        _tell(folder, rank, type(error).__name__, *error.faults)
        return error.exit_code
    except Exception:
        _tell(folder, rank, "", traceback.format_exc())
        return YTrainerError.exit_code
    return 0


def _perform(folder: Path, task: Mapping[str, object], rank: int) -> None:
    import torch

    from ytrainer_core.training.work import TrainingTask, perform

    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if device else "gloo", timeout=_PATIENCE, device_id=device
    )

    def log(metrics: Mapping[str, float], step: int) -> None:
        with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"metrics": dict(metrics), "step": step}) + "\n")

    result = perform(TrainingTask(**task), log)  # type: ignore[arg-type]
    if rank == 0:
        write_json(folder / RESULT_NAME, asdict(result))
    torch.distributed.destroy_process_group()


def _tell(folder: Path, rank: int, kind: str, *faults: str) -> None:
    write_json(folder / f"{ERROR_NAME}.{rank}", {"kind": kind, "faults": faults})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
