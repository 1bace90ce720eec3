"""What launch.nodes means to the rest: how many processes there are, and which work it is."""

from __future__ import annotations

from typing import Any

import pytest

from ytrainer_core.config import LaunchConfig, SftConfig, narrow
from ytrainer_core.errors import ConfigError
from ytrainer_core.training.checkpoints import Work


def key(**launch: Any) -> str:
    """Key of the work of an sft whose launch section this is."""
    config = SftConfig(launch=LaunchConfig(**launch)).model_dump(mode="json")
    return Work.of("sft", config, None, "rows", "base").key


@pytest.mark.parametrize(
    "knob",
    [
        {"node_cpu": "32"},
        {"node_memory": "64Gi"},
        {"node_gpu_type": "amd.com/gpu"},
        {"node_shared_memory": "1Gi"},
        {"node_timeout_hours": 2.0},
        {"runtime": "torch-volcano"},
        {"kueue_queue": "team"},
        {"volcano_queue": "gpus"},
    ],
)
def test_where_nodes_come_from_does_not_make_it_another_work(knob: dict[str, Any]) -> None:
    assert key(**knob) == key()


@pytest.mark.parametrize("knob", [{"nodes": 2}, {"processes": 2}, {"node_gpus": 1}])
def test_how_many_work_together_and_on_what_does(knob: dict[str, Any]) -> None:
    assert key(**knob) != key()


def test_all_machines_processes_are_one_world() -> None:
    assert LaunchConfig(nodes=3, processes=4).world_size == 12
    assert LaunchConfig(processes=4).world_size == 4


def test_amounts_may_be_typed_as_numbers_and_must_be_those_of_kubernetes() -> None:
    given = narrow(SftConfig, {"launch": {"node_cpu": 8, "node_memory": "512Gi"}}).launch
    assert (given.node_cpu, given.node_memory) == ("8", "512Gi")
    with pytest.raises(ConfigError, match=r"launch\.node_memory"):
        narrow(SftConfig, {"launch": {"node_memory": "16 GB"}})


def test_more_processes_than_gpus_are_refused_on_several_machines_alone() -> None:
    with pytest.raises(ConfigError, match="processes 8 must not exceed node_gpus 4"):
        narrow(SftConfig, {"launch": {"nodes": 2, "processes": 8, "node_gpus": 4}})
    assert LaunchConfig(nodes=1, processes=8, node_gpus=4).world_size == 8
