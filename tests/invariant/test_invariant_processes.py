"""Several processes train what one trains: the same weights, counts, checkpoints and models.

Two real processes on the CPU (gloo). Starting them takes most of the time, so each engine is
started once for all of its trainings.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import sft_task

from ytrainer_core.config import LoraConfig
from ytrainer_core.errors import Cancelled, ConfigError, YTrainerError
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.launch import launch
from ytrainer_core.training.model import (
    PROBE_NAME,
    add_lora,
    load_trained,
    probe_logits,
)
from ytrainer_core.training.work import TrainingTask, training_config

Make = Callable[..., Any]
LENGTHS = [17, 32, 18, 31, 19, 30, 20, 29, 21, 28, 22, 27, 23, 26, 24, 25]  # one pack each
SECONDS = 120

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
ENGINES = ["ddp", *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))]
TOLERANCE = {"ddp": 1e-6, "zero2": 1e-5, "zero3": 1e-5}

# Adam's epsilon is raised: it would blow rounding errors of vanishing gradients up.
STEADY = {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0}
OPTIM = {**STEADY, "adam_epsilon": 1e-3}
FALLING = {"lr_scheduler": "cosine", "warmup_steps": 2}
TRAIN = {"logging_steps": 1, "save_steps": 0, "max_steps": 5}


def case(name: str, kind: str = "full", *, rows: int = 16, **parts: Any) -> dict[str, Any]:
    """A training of two processes; its name is also that of its checkpoints' folder."""
    return {
        "name": name,
        "kind": kind,
        "rows": rows,
        "folder": parts.pop("folder", name),
        "objective": parts.pop("objective", {"name": "nlirg"}),
        "optim": parts.pop("optim", OPTIM),
        "stop_at": parts.pop("stop_at", None),
        "train": {**TRAIN, **parts},
    }


BOTH = [
    case("whole", per_device_batch_size=4),
    case("adapter", "lora", per_device_batch_size=4),
    case("odd", rows=13, per_device_batch_size=1, gradient_accumulation_steps=4, eval_steps=2),
    case("straight", "dropout", optim=FALLING),
    case("cut", "dropout", optim=FALLING, folder="cut", stop_at=2),
    case("continued", "dropout", optim=FALLING, folder="cut"),
]
WEIGHTS = case(
    "weights",
    rows=13,
    per_device_batch_size=4,
    objective={"name": "nlirg", "normalization": "weights"},
)
CASES = {"ddp": [*BOTH, WEIGHTS], "zero2": BOTH, "zero3": BOTH}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, make_model: Make, make_rows: Make, tokenizer: Any
) -> Path:
    """What the processes read."""
    folder = tmp_path_factory.mktemp("processes")
    make_model().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "rows.json").write_text(json.dumps(make_rows(LENGTHS, prompt=10)))
    (folder / "cases.json").write_text(json.dumps(CASES))
    return folder


@dataclass
class Trained:
    """What the two processes of each engine left behind."""

    folder: Path
    engine: str

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = torch.load(self.folder / self.engine / f"{name}.pt")
        return state

    def told(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / self.engine / f"{name}.json").read_text())
        return told


@pytest.fixture(scope="module", params=ENGINES)
def trained(request: pytest.FixtureRequest, folder: Path) -> Trained:
    """All cases of one engine, trained by one start of two processes."""
    engine = request.param
    (folder / engine).mkdir()
    worker = Path(__file__).with_name("processes_worker.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr=127.0.0.1", "--nproc-per-node=2"),
            *(str(worker), str(folder), engine),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Trained(folder, engine)


@pytest.fixture(scope="module")
def alone(
    make_model: Make,
    make_rows: Make,
    make_job: Make,
    tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Make:
    """alone(case, batch) -> (weights, TrainResult) of one process with the whole batch."""
    done: dict[str, Any] = {}

    def run(case: dict[str, Any], batch: int) -> tuple[dict[str, torch.Tensor], TrainResult]:
        if case["name"] not in done:
            model = make_model()
            if case["kind"] != "full":
                torch.manual_seed(0)
                model = add_lora(model, LoraConfig(rank=4))
            sizes = {"per_device_batch_size": batch, "gradient_accumulation_steps": 1}
            rows = make_rows(LENGTHS, prompt=10)
            result = train(
                model,
                tokenizer,
                rows[: case["rows"]],
                make_job(
                    objective=case["objective"], optim=case["optim"], **{**case["train"], **sizes}
                ),
                checkpoints=tmp_path_factory.mktemp("alone"),
                log=lambda metrics, step: None,
                eval_rows=rows[:5],
            )
            weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            done[case["name"]] = (weights, result)
        found: tuple[dict[str, torch.Tensor], TrainResult] = done[case["name"]]
        return found

    return run


@pytest.mark.parametrize("name", ["whole", "adapter", "odd"])
def test_two_processes_give_the_weights_counts_and_losses_of_one(
    name: str, trained: Trained, alone: Make
) -> None:
    """2 x 4 and 2 x 1 x 4 against 8 x 1; odd: 13 packs, so that an epoch does not come out even."""
    told, found = trained.told(name), trained.weights(name)
    expected, result = alone(next(c for c in BOTH if c["name"] == name), 8)
    assert (told["target_tokens"], told["tokens"]) == (result.target_tokens, result.tokens)
    for kind in ("loss", "nll", "mean_weight", "eval_loss", "eval_accuracy"):
        here = [row[kind] for row in told["log"] if kind in row]
        there = [row[kind] for row in result.history if kind in row]
        assert here == pytest.approx(there, abs=1e-5), kind
    assert found.keys() == (
        expected.keys() if name != "adapter" else expected.keys() & found.keys()
    )
    for parameter, weight in found.items():
        torch.testing.assert_close(
            weight, expected[parameter], rtol=0, atol=TOLERANCE[trained.engine], msg=parameter
        )


@pytest.mark.parametrize("trained", ["ddp"], indirect=True)
def test_normalization_by_weights_sums_them_over_the_processes(
    trained: Trained, alone: Make
) -> None:
    """DeepSpeed keeps gradients to itself, so that it is refused there."""
    expected, _ = alone(WEIGHTS, 8)
    for parameter, weight in trained.weights("weights").items():
        torch.testing.assert_close(weight, expected[parameter], rtol=0, atol=1e-6, msg=parameter)


def test_sigterm_to_one_process_stops_all_and_continued_equals_uninterrupted(
    trained: Trained,
) -> None:
    """With dropout, warm-up and a falling learning rate; bit for bit without DeepSpeed.

    The signal comes when step 2 is told, and is acted on at the end of step 3.
    """
    assert trained.told("cut")["cancelled"]
    assert trained.told("continued")["resumed_from"] == 3
    assert trained.told("continued")["target_tokens"] == trained.told("straight")["target_tokens"]
    straight = trained.weights("straight")
    for parameter, weight in trained.weights("continued").items():
        tolerance = 0 if trained.engine == "ddp" else 1e-6
        torch.testing.assert_close(
            weight, straight[parameter], rtol=0, atol=tolerance, msg=parameter
        )


# --- the whole way: launch() -------------------------------------------------------------


@pytest.fixture
def task(base_folder: Path, tokenizer: Any, tmp_path: Path) -> Make:
    """task(**sections) -> TrainingTask of sft on 24 short conversations, two processes."""

    def make(**sections: dict[str, Any]) -> TrainingTask:
        launch = {"processes": 2} | sections.pop("launch", {})
        return sft_task(tmp_path, base_folder, tokenizer, launch=launch, **sections)

    return make


def workers(parent: int) -> list[psutil.Process]:
    """Training processes below a process, by rank."""
    found = [
        process
        for process in psutil.Process(parent).children(recursive=True)
        if any("training.worker" in word for word in process.cmdline())
    ]
    return sorted(found, key=lambda process: process.environ()["RANK"])


def start(task: TrainingTask, log: Callable[..., None] = lambda metrics, step: None) -> TrainResult:
    return launch(task, training_config(task).launch, log)


@needs_deepspeed
def test_a_model_split_by_zero3_is_cancelled_continued_and_saved_as_it_was_trained(
    task: Make,
) -> None:
    work = task(
        launch={"engine": "deepspeed", "zero": 3},
        train={"num_train_epochs": 2, "logging_steps": 1, "save_steps": 2, "save_epochs": [1]},
    )
    seen: dict[int, float] = {}

    def log(metrics: Mapping[str, float], step: int) -> None:
        if "loss" in metrics:
            assert step not in seen
            seen[step] = metrics["loss"]

    def stop(metrics: Mapping[str, float], step: int) -> None:
        log(metrics, step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Cancelled, match="checkpoint is written"):
        start(work, stop)
    assert workers(os.getpid()) == []
    result = start(work, log)
    assert result.resumed_from >= 2
    assert sorted(seen) == list(range(1, result.steps + 1))
    root = Path(work.root)
    for saved in (root / "model", root / "epochs" / "epoch-1"):
        assert_as_trained(saved)
    epoch, end = (load_trained(root / where)[0] for where in ("epochs/epoch-1", "model"))
    moved = [
        not torch.equal(a, b) for a, b in zip(epoch.parameters(), end.parameters(), strict=True)
    ]
    assert any(moved)


def assert_as_trained(folder: Path) -> None:
    """The model on disk computes what the live one computed."""
    from safetensors.torch import load_file

    model, _, _ = load_trained(folder)
    probe = load_file(folder / PROBE_NAME)
    logits = probe_logits(model, probe["input_ids"])
    torch.testing.assert_close(logits, probe["logits"], rtol=0, atol=1e-5)


def test_a_killed_worker_is_named_with_the_likely_reason_and_takes_the_others_along(
    task: Make,
) -> None:
    def kill(metrics: Mapping[str, float], step: int) -> None:
        if step == 2:
            workers(os.getpid())[1].kill()

    with pytest.raises(YTrainerError, match=r"training process 1 .* SIGKILL.*memory"):
        start(task(train={"num_train_epochs": 500, "logging_steps": 1}), kill)
    assert workers(os.getpid()) == []


def test_an_error_in_a_worker_is_raised_here_with_its_class_and_text(task: Make) -> None:
    with pytest.raises(ConfigError, match=r"train\.freeze 'nothing\.\*' fits no parameter"):
        start(task(train={"freeze": "nothing.*"}))
    assert workers(os.getpid()) == []


def test_workers_end_soon_after_their_parent_was_killed(task: Make, tmp_path: Path) -> None:
    work = task(train={"num_train_epochs": 5000, "logging_steps": 1})
    (tmp_path / "task.json").write_text(json.dumps(asdict(work)))
    program = (
        "import json, sys\n"
        "from ytrainer_core.training.launch import launch\n"
        "from ytrainer_core.training.work import TrainingTask, training_config\n"
        "task = TrainingTask(**json.load(open(sys.argv[1])))\n"
        "launch(task, training_config(task).launch, lambda m, s: print(s, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "task.json")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == b"1"  # the first step is done
    below = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers(parent.pid)) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while (left := [p for p in below if p.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
