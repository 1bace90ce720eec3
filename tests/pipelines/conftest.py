"""One tiny corpus and base model, and the two pipeline runs that all tests look at.

A run costs most of a minute, so each is made once. The first is killed by SIGKILL during
training and started again: it must end as if nothing had happened. The second, in the same
store and below a run that was made for it (as KFP 2.17 does), is rejected by the gate.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from homes import CLI, client_of, environment, runs_of

from ytrainer_core.errors import GateRejected

COLOURS, SIZES = ("red", "green", "blue"), ("small", "large")
ROWS, HELD_OUT = 50, 10
STEPS, SAVE_STEPS, LOGGING_STEPS = 120, 20, 10
MODEL = "tiny"


@dataclass(frozen=True)
class Files:
    """Where the tiny corpus and base lie, and the tree that names them."""

    folder: Path
    base: Path

    def tree(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """A config tree of the finetune pipeline; sections are merged into it."""
        tree: dict[str, Any] = {
            "model": {"name_or_path": str(self.base)},
            "data": {
                "train": str(self.folder / "train.json"),
                "validation": str(self.folder / "validation.json"),
                "general": str(self.folder / "general.txt"),
                "max_length": 128,
            },
            "order": {"mode": "mean_loss"},
            "optim": {"learning_rate": "1e-2"},
            "lora": {"rank": 4},
            "train": {
                "max_steps": STEPS,
                "save_steps": SAVE_STEPS,
                "logging_steps": LOGGING_STEPS,
            },
            "evaluate": {"max_generate_rows": 2, "max_new_tokens": 4},
            "gate": {"min_rows": HELD_OUT, "max_general_loss_rise": 10},
            "registry": {"name": MODEL},
        }
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section}
        return tree


@dataclass(frozen=True)
class Killed:
    """The first start. survivors: steps that outlived it. left_running: its runs in MLflow."""

    exit_code: int
    checkpoint: Path
    survivors: list[str]
    left_running: list[str]


@dataclass
class Store:
    """A home with an MLflow store, and what was run in it.

    folder, stages, version: of the run that passed.
    """

    home: Path
    killed: Killed
    exit_code: int
    log: str
    folder: Path
    stages: dict[str, Any]
    version: str
    rejection: GateRejected | None = None
    injected_run_id: str = ""

    @property
    def client(self) -> Any:
        return client_of(self.home)

    def runs(self, condition: str = "") -> list[Any]:
        """Runs of the store, oldest first."""
        return runs_of(self.home, condition)

    def below(self, run_id: str) -> dict[str, list[Any]]:
        """Stage -> its runs below a parent, in the order in which the stages began."""
        stages: dict[str, list[Any]] = {}
        for run in self.runs(f"tags.`mlflow.parentRunId` = '{run_id}'"):
            stages.setdefault(run.data.tags["ytrainer.stage"], []).append(run)
        return stages


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Files:
    """60 Alpaca rows that nobody mistakes for each other, 10 of them held out, and some prose."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        {
            "instruction": f"Which colour has number {i}?",
            "input": "",
            "output": f"colour: {COLOURS[i % 3]} | size: {SIZES[i % 2]}",
        }
        for i in range(ROWS + HELD_OUT)
    ]
    (folder / "train.json").write_text(json.dumps(rows[:ROWS], indent=1))
    (folder / "validation.json").write_text(json.dumps(rows[ROWS:], indent=1))
    (folder / "general.txt").write_text("\n".join(f"Line {i} of some prose." for i in range(8)))
    return Files(folder, base_folder)


@pytest.fixture(scope="session")
def passed(
    tmp_path_factory: pytest.TempPathFactory, corpus: Files, _nothing_from_outside: None
) -> Store:
    """The pipeline killed during training, started again, and passed by the gate."""
    folder = tmp_path_factory.mktemp("store")
    home, config = folder / "home", folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(corpus.tree()))
    command = [*CLI, "pipeline", "run", "finetune", str(config), "--local"]
    with environment(home):
        killed = kill_during_training(command, home, folder / "killed.txt")
        again = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    runs = sorted((home / "pipelines").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    finished = next(run for run in runs if (run / "result.json").exists())
    return Store(
        home, killed, again.returncode, again.stderr, finished, told["stages"], told["version"]
    )


def kill_during_training(command: list[str], home: Path, log: Path) -> Killed:
    """Start a pipeline, wait for its first sealed checkpoint, kill its own process and no other."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    checkpoint = None
    while checkpoint is None:
        assert process.poll() is None, f"it ended before it was killed: {log.read_text()}"
        sealed = (home / "checkpoints").glob("*/checkpoint-*/ytrainer-checkpoint.json")
        checkpoint = next((file.parent for file in sealed), None)
        time.sleep(0.05)
    steps = psutil.Process(process.pid).children(recursive=True)
    assert steps, "the training is a process of its own"
    os.kill(process.pid, signal.SIGKILL)
    exit_code = process.wait()
    _, alive = psutil.wait_procs(steps, timeout=15)
    left_running = [
        run.data.tags["ytrainer.stage"] for run in runs_of(home, "attributes.status = 'RUNNING'")
    ]
    return Killed(exit_code, checkpoint, [str(child) for child in alive], left_running)


@pytest.fixture(scope="session")
def rejected(passed: Store, corpus: Files) -> Store:
    """The same home after a second run, below an injected run, that the gate rejected."""
    from pipelines.local import run_local

    client = passed.client
    experiment = client.create_experiment("cluster", str(passed.home / "mlartifacts"))
    passed.injected_run_id = client.create_run(experiment).info.run_id
    tree = corpus.tree(gate={"min_target_loss_drop": 100}, train={"max_steps": 5})
    with environment(passed.home), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_RUN_ID", passed.injected_run_id)
        with pytest.raises(GateRejected) as caught:
            run_local("finetune", tree)
        passed.rejection = caught.value
    return passed
