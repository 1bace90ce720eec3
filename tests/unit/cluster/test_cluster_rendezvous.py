"""The command of the TrainJob, run twice as two nodes, trains what one machine trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ytrainer_core.cluster.trainjob import Nodes, SharedVolume, trainjob_manifest
from ytrainer_core.config import SftConfig, narrow
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.files import write_json
from ytrainer_core.training.launch import RESULT_NAME, TASK_NAME, launch
from ytrainer_core.training.model import base_digest
from ytrainer_core.training.work import TrainingTask, training_config

NODES = 2
SECONDS = 600


@pytest.fixture
def task(base_folder: Path, tokenizer: Any, tmp_path: Path) -> Callable[[str], TrainingTask]:
    """task(name) -> a short training; its checkpoints and its model lie in tmp_path/name."""
    conversations = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} and {i}?"},
                {"role": "assistant", "content": f"The answer is {2 * i}."},
            ]
        }
        for i in range(24)
    ]
    (tmp_path / "train.json").write_text(json.dumps(conversations))
    tree = {
        "model": {"name_or_path": str(base_folder)},
        "data": {"train": str(tmp_path / "train.json"), "max_length": 64},
        "lora": {"rank": 0},
        "train": {"max_steps": 4, "save_steps": 2},
        "launch": {"processes": NODES},
    }
    config = narrow(SftConfig, tree)
    corpus = prepare_corpus(config.data, tmp_path / "corpus", tokenizer=tokenizer, seed=0)

    def make(name: str) -> TrainingTask:
        (tmp_path / name).mkdir()
        return TrainingTask(
            stage="sft",
            config=config.model_dump(mode="json"),
            corpus=str(corpus.folder),
            data_sha256=corpus.manifest["sha256"],
            order_file="",
            base=str(base_folder),
            base_reference={
                "name_or_path": str(base_folder),
                "revision": "",
                "sha256": base_digest(base_folder),
            },
            root=str(tmp_path / name),
            run_id="",
        )

    return make


def as_node(index: int, port: int) -> dict[str, str]:
    """What the Trainer's torch plugin sets on a node; here all of them are this machine."""
    return {
        "PET_NNODES": str(NODES),
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_nodes_of_one_process_train_what_one_node_of_two_trains(
    task: Callable[[str], TrainingTask], tmp_path: Path
) -> None:
    spread, shared = task("spread"), tmp_path / "shared"
    write_json(shared / TASK_NAME, {"task": asdict(spread), "parent": os.getpid()})
    nodes = Nodes("image", NODES, 1, volumes=(SharedVolume("work", str(tmp_path)),))
    manifest = trainjob_manifest("train", str(shared), nodes)
    python, *words = manifest["spec"]["trainer"]["command"]
    assert python == "python3"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen([sys.executable, *words], env={**os.environ, **as_node(index, port)})
        for index in range(manifest["spec"]["trainer"]["numNodes"])
    ]
    try:
        assert [process.wait(SECONDS) for process in started] == [0] * NODES
    finally:
        for process in started:
            process.kill()
            process.wait()
    result = json.loads((shared / RESULT_NAME).read_text())
    together = task("together")
    expected = launch(together, training_config(together).launch, lambda metrics, step: None)
    assert (result["steps"], result["target_tokens"]) == (4, expected.target_tokens)
    weights, wanted = (
        load_file(Path(done.root) / "model" / "model.safetensors") for done in (spread, together)
    )
    assert weights.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(weights[name], wanted[name])] == []
