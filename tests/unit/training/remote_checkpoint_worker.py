"""A training reduced to its checkpoints: `python … FOLDER ADDRESS KEY STEPS PAUSE_SECONDS`.

Goes on from the newest checkpoint that it finds, on the disk or stored; on SIGTERM it writes one
more and ends when that one is stored. FOLDER/log tells every checkpoint that was offered.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

from ytrainer_core.training.checkpoints import seal
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints, Uploads

LARGE_BYTES = 9 << 20
"""More than one part of an upload."""


def contents(step: int) -> dict[str, bytes]:
    """The files of a checkpoint: each step has others."""
    noise = random.Random(step)
    return {
        "model.safetensors": noise.randbytes(LARGE_BYTES),
        "optimizer.pt": noise.randbytes(1 << 20),
        "rank/0/rng.pth": noise.randbytes(100),
        "trainer_state.json": b'{"best_model_checkpoint": null}',
    }


def write(root: Path, step: int) -> Path:
    """A sealed checkpoint in a work's folder."""
    folder = root / f"checkpoint-{step}"
    for name, data in contents(step).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    seal(folder)
    return folder


def main(root: Path, address: str, key: str, steps: int, pause: float) -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    remote = RemoteCheckpoints(address, key, keep=2)
    newest = remote.fetch(root)
    begin = int(newest.name.rsplit("-", 1)[-1]) if newest else 0
    with Uploads(remote) as uploads, (root / "log").open("a") as log:
        for step in range(begin + 1, steps + 1):
            uploads.offer(write(root, step))
            log.write(f"{step}\n")
            log.flush()
            if stop:
                return
            time.sleep(pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
