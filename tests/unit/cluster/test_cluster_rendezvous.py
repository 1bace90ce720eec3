"""The command of the TrainJob, run twice as two nodes, trains what one machine trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import sft_task

from ytrainer_core.cluster.trainjob import Nodes, SharedVolume, trainjob_manifest
from ytrainer_core.files import write_json
from ytrainer_core.training.launch import RESULT_NAME, TASK_NAME, launch
from ytrainer_core.training.work import training_config

NODES = 2
SECONDS = 600


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
    base_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    spread, together = (
        sft_task(
            tmp_path / name,
            base_folder,
            tokenizer,
            train={"max_steps": 4, "save_steps": 2},
            launch={"processes": NODES},
        )
        for name in ("spread", "together")
    )
    shared = tmp_path / "shared"
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
    expected = launch(together, training_config(together).launch, lambda metrics, step: None)
    assert (result["steps"], result["target_tokens"]) == (4, expected.target_tokens)
    weights, wanted = (
        load_file(Path(done.root) / "model" / "model.safetensors") for done in (spread, together)
    )
    assert weights.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(weights[name], wanted[name])] == []
