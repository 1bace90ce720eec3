"""One of several processes of a training, started by torchrun: `python -m … FOLDER`.

Reads the task from the folder; the first process writes metrics and result into it, and
every one its error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ytrainer_core.config import LaunchConfig
from ytrainer_core.errors import Cancelled, YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.processes import end_with
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME
from ytrainer_core.training.work import TrainingTask, perform


def main(folder: Path) -> int:
    """Perform the task as one process of it; the exit code is that of its failure, or 0."""
    tree = json.loads((folder / TASK_NAME).read_text(encoding="utf-8"))
    end_with(tree["parent"], YTrainerError.exit_code)
    task, launch = TrainingTask(**tree["task"]), LaunchConfig(**tree["launch"])
    rank = int(os.environ["RANK"])

    def log(metrics: Mapping[str, float], step: int) -> None:
        with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"metrics": dict(metrics), "step": step}) + "\n")

    try:
        result = perform(task, log, launch)
    except Cancelled as error:  # no failure: torchrun shall not kill the others for it
        write_json(folder / f"{ERROR_NAME}.{rank}", _record(error))
        return 0
    except YTrainerError as error:
        write_json(folder / f"{ERROR_NAME}.{rank}", _record(error))
        return error.exit_code
    if rank == 0:
        write_json(folder / RESULT_NAME, asdict(result))
    return 0


def _record(error: YTrainerError) -> dict[str, object]:
    return {"kind": type(error).__name__, "faults": list(error.faults)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
