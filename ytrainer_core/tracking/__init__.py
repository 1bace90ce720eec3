"""Where runs are recorded, so that every number can be traced to the run that made it.

One parent run per pipeline, one nested run per stage. A run that is opened here
is always closed with the truth: FINISHED, FAILED, KILLED, or, where the process
was killed without a word, KILLED by the next one that looks (`sweep_dead_runs`).
Recording never stops the training: what MLflow cannot take now waits on disk.

Runs are written through MlflowClient with an explicit URI; MLflow's process-wide
state (active run, tracking URI) is neither read nor changed, so that stages may
run in threads. This package and registry/ are the only ones that import mlflow.
"""

from ytrainer_core.tracking.leftovers import deliver_leftovers, sweep_dead_runs
from ytrainer_core.tracking.opening import (
    INJECTED_RUN_VARIABLE,
    PARENT_RUN_VARIABLE,
    open_pipeline_run,
    open_run,
)
from ytrainer_core.tracking.process import HOST_TAG, PID_TAG, START_TAG, git_sha
from ytrainer_core.tracking.run import MlflowRun, NullRun, Run
from ytrainer_core.tracking.store import (
    connect,
    experiment_id,
    registry_uri,
    store_errors,
    store_name,
    tracking_uri,
)
from ytrainer_core.tracking.text import first_line, flatten

__all__ = [
    "HOST_TAG",
    "INJECTED_RUN_VARIABLE",
    "PARENT_RUN_VARIABLE",
    "PID_TAG",
    "START_TAG",
    "MlflowRun",
    "NullRun",
    "Run",
    "connect",
    "deliver_leftovers",
    "experiment_id",
    "first_line",
    "flatten",
    "git_sha",
    "open_pipeline_run",
    "open_run",
    "registry_uri",
    "store_errors",
    "store_name",
    "sweep_dead_runs",
    "tracking_uri",
]
