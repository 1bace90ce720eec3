"""Nodes of a TrainJob as processes of this machine: its own command, run for real on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from kubernetes_stub import COMPLETE, Cluster, Tree, condition, counts

_END_SECONDS = 10
"""Grace of a node. torchrun sleeps through it where it waits for another node at the end."""

_OF_THE_STEP = ("YTRAINER_", "AWS_", "HF_", "MLFLOW_")
"""Variables that a node has from its TrainJob or not at all."""


class Machines:
    """A scene of the cluster's one TrainJob: starts its nodes, then tells how they are.

    A node that fails ends all of them, as a JobSet does; a deletion asks them to end.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.manifests: list[Tree] = []
        self._cluster, self._folder = cluster, folder
        cluster.scenes = [self.scene]
        cluster.on_delete = self.end

    def scene(self) -> Tree:
        """Status of the TrainJob as its nodes are now."""
        if not self.nodes:
            (job,) = self._cluster.jobs.values()
            self.manifests.append(job)
            self._start(job)
        codes = [node.poll() for node in self.nodes]
        if any(codes):
            self.end()
            self._show_pods("Failed")
            return condition(
                "Failed", "FailedJobs", "jobset failed due to one or more job failures"
            )
        if None in codes:
            return counts(active=len(codes))
        self._show_pods("Succeeded")
        return COMPLETE

    def _start(self, job: Tree) -> None:
        trainer = job["spec"]["trainer"]
        python, *words = trainer["command"]
        assert python == "python3"
        given = {each["name"]: each["value"] for each in trainer["env"] if "value" in each}
        here = {k: v for k, v in os.environ.items() if not k.startswith(_OF_THE_STEP)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for index in range(trainer["numNodes"]):
            told = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(index),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": port,
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            }
            folder = self._folder / f"node-{len(self.manifests)}-{index}"
            folder.mkdir(parents=True)
            self.nodes.append(
                subprocess.Popen(
                    [sys.executable, *words],
                    env=here | given | told,
                    cwd=folder,  # a path that is relative means nothing here
                    stdout=_log(folder),
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _show_pods(self, phase: str) -> None:
        (name,) = self._cluster.jobs
        for index, node in enumerate(self.nodes):
            log = self._folder / f"node-{len(self.manifests)}-{index}" / "log"
            lines = [("2026-01-01T00:00:00Z", line) for line in log.read_text().splitlines()]
            ended: dict[str, Any] = {"exitCode": node.returncode, "reason": "Error"}
            self._cluster.add_pod(
                f"{name}-node-0-{index}", index, job=name, phase=phase, log=lines, ended=ended
            )

    def end(self) -> None:
        """Ask all nodes to end, and wait until they have."""
        for node in self.nodes:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def _log(folder: Path) -> IO[bytes]:
    return (folder / "log").open("wb")
