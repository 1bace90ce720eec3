"""torchrun as a child of a stage: `python -m … FOLDER PROCESSES PARENT`.

It ends with the process that started it, and leaves behind how its workers ended.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from ytrainer_core.errors import YTrainerError
from ytrainer_core.files import write_json
from ytrainer_core.processes import end_with

ENDS_NAME = "ends.json"


def main(folder: Path, processes: int, parent: int) -> int:
    """Run the workers; 0 where all of them ended with 0."""
    end_with(parent, YTrainerError.exit_code)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # what it reports, the stage's process tells in its words
    try:
        run.main(
            [
                *("--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"),
                *("-m", "ytrainer_core.training.worker", str(folder)),
            ]
        )
    except ChildFailedError as error:
        write_json(
            folder / ENDS_NAME,
            [
                {"process": rank, "code": failure.exitcode, "seconds": failure.timestamp}
                for rank, failure in error.failures.items()
            ],
        )
        return YTrainerError.exit_code
    except SignalException:
        return YTrainerError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
