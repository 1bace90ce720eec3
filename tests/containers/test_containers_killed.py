"""A training container killed five times, each restart on an empty disk: the same weights."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from places import BUCKET, Image, Servers, tell
from safetensors.torch import load_file

from ytrainer_core.storage import list_objects
from ytrainer_core.training.checkpoints import MANIFEST_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 5
STEPS, SAVE_STEPS = 900, 20
SECONDS = 300
STORED = f"s3://{BUCKET}/killed"


@pytest.fixture
def data(servers: Servers) -> str:
    """Address of a corpus of 64 rows in the bucket."""
    rows = [{"instruction": f"Which number is {i}?", "output": f"It is {i}."} for i in range(64)]
    body = json.dumps(rows).encode()
    boto3.resource("s3").Bucket(BUCKET).put_object(Key="killed-data/rows.json", Body=body)
    return f"s3://{BUCKET}/killed-data/rows.json"


class Machines:
    """Containers of the image that train, each on a disk of its own."""

    def __init__(self, client: Any, image: str, variables: dict[str, str], base: Path) -> None:
        self._client, self._image = client, image
        self._variables = {**variables, "OMP_NUM_THREADS": "1"}
        self._base = base
        self.started: list[Any] = []

    def start(self, data: str, out: Path, *words: str) -> Any:
        """A container that has begun to train; its model comes to `out`."""
        out.mkdir(exist_ok=True)
        out.chmod(0o777)
        command = ["ytrainer", "sft", f"model.name_or_path={self._base}", f"data.train={data}",
                   "data.max_length=64", "lora.rank=0", f"train.max_steps={STEPS}",
                   f"train.save_steps={SAVE_STEPS}", "train.pack_length=64", "optim.warmup_ratio=0",
                   "tracking.enabled=false", f"output_dir={out}/sft", *words]  # fmt: skip
        container = self._client.containers.run(
            self._image,
            command,
            environment=self._variables,
            volumes={str(self._base): {"bind": str(self._base), "mode": "ro"},
                     str(out): {"bind": str(out), "mode": "rw"}},
            network_mode="host",
            detach=True,
        )  # fmt: skip
        self.started.append(container)
        return container

    def finish(self, container: Any) -> None:
        """Wait for its end, which must be a good one."""
        code = container.wait(timeout=SECONDS)["StatusCode"]
        assert code == 0, container.logs().decode()[-2000:]


@pytest.fixture
def machines(image: Image, client: Any, servers: Servers, base_folder: Path) -> Iterator[Machines]:
    for path in (base_folder, *base_folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    found = Machines(client, image.name, servers.variables, base_folder)
    yield found
    for container in found.started:
        container.remove(force=True)


def stored() -> int:
    """Step of the newest complete checkpoint in the bucket; 0 where there is none."""
    manifests = [each.uri for each in list_objects(STORED) if each.uri.endswith(MANIFEST_NAME)]
    return max((int(uri.split("/checkpoint-")[1].split("/")[0]) for uri in manifests), default=0)


def test_killed_five_times_with_every_disk_lost_a_container_ends_with_the_same_weights(
    machines: Machines, data: str, tmp_path: Path
) -> None:
    moments = random.Random(1)
    told, reached = [], 0
    for life in range(KILLS):
        container = machines.start(data, tmp_path / f"{life}", f"train.checkpoint_to={STORED}")
        until = time.monotonic() + SECONDS
        while stored() <= reached:
            container.reload()
            assert container.status in ("created", "running"), container.logs().decode()[-2000:]
            assert time.monotonic() < until, "no checkpoint was stored"
            time.sleep(0.1)
        time.sleep(moments.random())
        container.kill("SIGKILL")
        container.wait(timeout=SECONDS)
        came, reached = reached, stored()
        told.append(f"{came} -> {reached}")
    last = machines.start(data, tmp_path / "last", f"train.checkpoint_to={STORED}")
    straight = machines.start(data, tmp_path / "straight")
    machines.finish(last)
    machines.finish(straight)
    assert f"continued from {reached:,}" in last.logs().decode()
    found, wanted = (
        load_file(tmp_path / name / "sft" / "model" / "model.safetensors")
        for name in ("last", "straight")
    )
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    tell(f"killed at steps (began at -> stored): {', '.join(told)}; {STEPS} steps, weights equal")
