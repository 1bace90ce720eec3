"""`ytrainer sft launch.nodes=2` in a pod: what it delivers, how it fails, how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from kubernetes_stub import NAMESPACE, Cluster, Tree, serving
from machines import Machines
from safetensors.torch import load_file
from step_pod import step_pod

from ytrainer_core.cli.main import main
from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.training.checkpoints import newest_complete

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POD = "finetune-zx8-system-container-impl-42"
STEPS = 100

Ytrainer = Callable[..., "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, stdout, stderr in one line."""

    code: int
    out: str
    said: str


@pytest.fixture
def ytrainer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: Path, tmp_path: Path
) -> Ytrainer:
    """ytrainer("out", "launch.nodes=2", …) -> Outcome of `ytrainer sft` into tmp_path/out."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(out: str, *words: str) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(["sft", str(config), f"output_dir={tmp_path / out}", *words])
        told = capfd.readouterr()
        assert isinstance(leaving.value.code, int)
        return Outcome(leaving.value.code, told.out, " ".join(told.err.split()))

    return run


@pytest.fixture
def config(tmp_path: Path, base_folder: Path) -> Path:
    """A hundred steps of LoRA with a checkpoint after each fifth."""
    rows = [
        {"instruction": f"What is {i} and {i}?", "output": f"The answer is {2 * i}."}
        for i in range(24)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
model: {{name_or_path: {base_folder}}}
data: {{train: {tmp_path / "rows.json"}, max_length: 64}}
lora: {{rank: 4}}
train: {{max_steps: {STEPS}, save_steps: 5, logging_steps: 1, pack_length: 64}}
tracking: {{enabled: false}}
"""
    )
    return path


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the step's claim is mounted; YTRAINER_HOME lies on it."""
    folder = tmp_path / "claim"
    monkeypatch.setenv("YTRAINER_HOME", str(folder / "home"))
    return folder


@pytest.fixture
def cluster(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster in whose pod the command runs."""
    made = Cluster()
    made.pods[POD] = step_pod(POD, str(shared / "home"), str(shared))
    monkeypatch.setenv("KFP_POD_NAME", POD)
    with serving(made) as url:
        api = KubernetesApi(url, NAMESPACE, account=tmp_path, patience=60)
        monkeypatch.setattr(KubernetesApi, "in_cluster", lambda: api)
        yield made


@pytest.fixture
def machines(cluster: Cluster, tmp_path: Path) -> Iterator[Machines]:
    made = Machines(cluster, tmp_path / "machines")
    yield made
    made.end()


def work_of(shared: Path) -> Path:
    """The folder of the one piece of work that there is."""
    (root,) = (path for path in (shared / "home" / "checkpoints").iterdir() if path.is_dir())
    return root


def stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def after_a_checkpoint(shared: Path, act: Callable[[], None]) -> Iterator[None]:
    """Act as soon as the work has a checkpoint that counts."""

    def watch() -> None:
        while not over.wait(0.02):
            roots = (shared / "home" / "checkpoints").glob("*/")
            if any(newest_complete(root) for root in roots):
                act()
                return

    over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def weights_in(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


def test_two_machines_train_what_two_processes_train_also_when_stopped_halfway(
    ytrainer: Ytrainer, cluster: Cluster, machines: Machines, shared: Path, tmp_path: Path
) -> None:
    with after_a_checkpoint(shared, stop_this_process):
        cut = ytrainer("out", "launch.nodes=2", "launch.node_cpu=2")
    assert cut.code == 5, cut.said
    assert "stopped by SIGTERM" in cut.said and "is deleted" in cut.said
    assert cluster.jobs == {} and not (tmp_path / "out").exists()
    assert newest_complete(work_of(shared)) is not None

    machines.nodes.clear()
    done = ytrainer("out", "launch.nodes=2", "launch.node_cpu=3")
    assert done.code == 0, done.said
    assert f"{STEPS} (continued from" in done.out
    assert cluster.jobs == {} and not (work_of(shared) / "nodes").exists()

    together = ytrainer("together", "launch.processes=2")
    assert together.code == 0, together.said
    found, expected = weights_in(tmp_path / "out"), weights_in(tmp_path / "together")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    first, second = (job["spec"]["trainer"] for job in machines.manifests)
    assert (first["numNodes"], first["numProcPerNode"]) == (2, 1)
    assert first["image"] == "registry/ytrainer@sha256:0a1b"
    assert first["resourcesPerNode"]["limits"]["cpu"] == "2"
    assert second["resourcesPerNode"]["limits"]["cpu"] == "3"


def test_what_a_worker_tells_is_the_error_of_the_stage_and_so_is_its_exit_code(
    ytrainer: Ytrainer, cluster: Cluster, machines: Machines, tmp_path: Path
) -> None:
    words = ("launch.nodes=2", "model.quantization=4bit", "lora.rank=0")
    outcome = ytrainer("out", *words)
    assert outcome.code == 2, outcome.said
    assert "lora.rank=0 trains no adapter. Set lora.rank" in outcome.said
    assert [node.returncode != 0 for node in machines.nodes] == [True, True]
    assert cluster.jobs == {} and not (tmp_path / "out").exists()


def test_a_node_that_dies_without_a_word_is_told_with_its_exit_code(
    ytrainer: Ytrainer, cluster: Cluster, machines: Machines, tmp_path: Path
) -> None:
    scene = machines.scene

    def kill_the_second() -> Tree:
        status = scene()
        machines.nodes[1].kill()
        return status

    cluster.scenes = [kill_the_second, scene]
    outcome = ytrainer("out", "launch.nodes=2")
    assert outcome.code == 4, outcome.said
    assert "FailedJobs" in outcome.said and "(node 1): Error, exit code -9" in outcome.said
    assert cluster.jobs == {} and not (tmp_path / "out").exists()


def test_a_machine_that_is_taken_away_leaves_a_checkpoint_of_all(
    ytrainer: Ytrainer, cluster: Cluster, machines: Machines, shared: Path
) -> None:
    with after_a_checkpoint(shared, lambda: machines.nodes[1].terminate()):
        outcome = ytrainer("out", "launch.nodes=2")
    assert outcome.code == 5, outcome.said
    assert "stopped by SIGTERM after step" in outcome.said
    assert newest_complete(work_of(shared)) is not None and cluster.jobs == {}


def test_several_machines_outside_of_a_cluster_are_refused_before_anything_is_made(
    ytrainer: Ytrainer, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    outcome = ytrainer("out", "launch.nodes=2")
    assert outcome.code == 2
    assert "launch.nodes=2 needs a cluster" in outcome.said
    assert not (shared / "home" / "checkpoints").exists() and not (tmp_path / "out").exists()
