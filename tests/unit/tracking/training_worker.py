"""A process that trains, as far as its run can see: a metric per step until it is told to stop.

Arguments: tracking URI, experiment, key, first step, seconds between steps. It prints its run
id, then every step; it ends in order when a line comes from stdin.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from ytrainer_core.config import StageConfig, TrackingConfig
from ytrainer_core.tracking import open_run

uri, experiment, key, first, pause = sys.argv[1:]
config = StageConfig(tracking=TrackingConfig(uri=uri, experiment=experiment))
asked = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), asked.set()), daemon=True).start()
with open_run("sft", config, key=key) as run:
    print(run.run_id, flush=True)
    page = Path(f"report-{run.run_id}.html")
    step = int(first)
    while not asked.is_set():
        run.log({"loss": 1.0 / (step + 1), "step_twice": 2.0 * step}, step)
        print(step, flush=True)
        if step == int(first) + 40:
            page.write_text("<p>")
            run.artifact(page, "reports")
            page.unlink()
        step += 1
        time.sleep(float(pause))
