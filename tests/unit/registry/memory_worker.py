"""How far registering the second of two models raises the peak memory of a process, in MiB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from ytrainer_core.config import RegisterConfig
from ytrainer_core.registry import register, register_model
from ytrainer_core.tracking import NullRun
from ytrainer_core.verify import Verification


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(small: Path, large: Path) -> None:
    # the proof is a process of its own, and not the one that is measured
    register._prove = lambda uri, config: Verification(uri, 0.0, 0.0, 0, "")
    register_model(small, RegisterConfig(), run=NullRun(), tags={})  # imports all libraries
    before = peak_mib()
    register_model(large, RegisterConfig(), run=NullRun(), tags={})
    print(peak_mib() - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
