"""A task on several nodes gives the metrics, the result and the errors that its workers tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kubernetes_stub import COMPLETE, NAMESPACE, Cluster, condition, counts, serving

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.spread import FOLDER_NAME, launch_on_nodes
from ytrainer_core.cluster.trainjob import Nodes, SharedVolume
from ytrainer_core.config import SftConfig
from ytrainer_core.errors import Cancelled, DataError, StageFailed
from ytrainer_core.files import write_json
from ytrainer_core.training.job import TrainResult
from ytrainer_core.training.launch import ERROR_NAME, METRICS_NAME, RESULT_NAME, TASK_NAME
from ytrainer_core.training.work import TrainingTask

RESULT = TrainResult(4, [{"loss": 1.5}], [2.0], [1.0], 64, 128, 3.5, 0)
FAILED = condition("Failed", "FailedJobs", "jobset failed")
Logged = list[tuple[Mapping[str, float], int]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    made.add_pod("launcher", 9)
    yield made


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder through which launcher and nodes talk."""
    return tmp_path / "0123abcd" / FOLDER_NAME


@pytest.fixture
def logged() -> Logged:
    return []


@pytest.fixture
def launch(cluster: Cluster, tmp_path: Path, logged: Logged) -> Iterator[Callable[[], TrainResult]]:
    task = TrainingTask(
        stage="sft",
        config=SftConfig().model_dump(mode="json"),
        corpus="",
        data_sha256="",
        order_file="",
        base="",
        base_reference={},
        root=str(tmp_path / "0123abcd"),
        run_id="",
    )
    nodes = Nodes("image", 2, 1, volumes=(SharedVolume("work", str(tmp_path)),))

    with serving(cluster) as url:
        api = KubernetesApi(url, NAMESPACE, account=tmp_path, patience=5)
        yield lambda: launch_on_nodes(
            task,
            nodes,
            lambda metrics, step: logged.append((metrics, step)),
            api=api,
            pod="launcher",
            say=lambda line: None,
            poll_seconds=0.01,
        )


def append(shared: Path, text: str) -> None:
    with (shared / METRICS_NAME).open("a") as file:
        file.write(text)


def tell(shared: Path, rank: int, kind: str, fault: str) -> None:
    write_json(shared / f"{ERROR_NAME}.{rank}", {"kind": kind, "faults": [fault]})


def test_metrics_come_while_it_trains_and_the_result_in_the_end(
    cluster: Cluster, shared: Path, logged: Logged, launch: Callable[[], TrainResult]
) -> None:
    seen: list[int] = []

    def first() -> dict[str, Any]:
        task = json.loads((shared / TASK_NAME).read_text())
        assert task["parent"] == 0 and task["task"]["stage"] == "sft"
        append(shared, '{"metrics": {"loss": 2.5}, "step": 1}\n{"metrics": {"lo')
        return counts(active=2)

    def second() -> dict[str, Any]:
        seen.append(len(logged))
        append(shared, 'ss": 1.5}, "step": 2}\n')
        return counts(active=2)

    def last() -> dict[str, Any]:
        append(shared, '{"metrics": {"loss": 0.5}, "step": 3}\n')
        write_json(shared / RESULT_NAME, asdict(RESULT))
        return COMPLETE

    cluster.scenes = [first, second, last]
    assert launch() == RESULT
    assert seen == [1]
    assert logged == [({"loss": 2.5}, 1), ({"loss": 1.5}, 2), ({"loss": 0.5}, 3)]


def test_what_an_earlier_job_left_counts_for_nothing(
    cluster: Cluster, shared: Path, launch: Callable[[], TrainResult]
) -> None:
    write_json(shared / RESULT_NAME, asdict(RESULT))
    with pytest.raises(StageFailed, match="left no result"):
        launch()


def test_the_error_that_a_worker_told_is_raised_with_its_class(
    cluster: Cluster, shared: Path, launch: Callable[[], TrainResult]
) -> None:
    def fail() -> dict[str, Any]:
        tell(shared, 0, "", "Traceback of what the other one's end did to this one")
        tell(shared, 1, "DataError", "rows.json:3: has no answer.")
        return FAILED

    cluster.scenes = [fail]
    with pytest.raises(DataError, match=r"rows\.json:3: has no answer\."):
        launch()


def test_nodes_that_were_asked_to_stop_are_cancelled_though_they_ended_well(
    cluster: Cluster, shared: Path, launch: Callable[[], TrainResult]
) -> None:
    def stop() -> dict[str, Any]:
        tell(shared, 0, "Cancelled", "stopped by SIGTERM after step 2 of 4.")
        return COMPLETE

    cluster.scenes = [stop]
    with pytest.raises(Cancelled, match="after step 2 of 4"):
        launch()


def test_the_job_belongs_to_the_launchers_pod(
    cluster: Cluster, shared: Path, launch: Callable[[], TrainResult]
) -> None:
    owners: list[Any] = []

    def look() -> dict[str, Any]:
        owners.append(cluster.jobs["ytrainer-0123abcd"]["metadata"]["ownerReferences"])
        write_json(shared / RESULT_NAME, asdict(RESULT))
        return COMPLETE

    cluster.scenes = [look]
    launch()
    assert owners[0] == [{"apiVersion": "v1", "kind": "Pod", "name": "launcher",
                          "uid": "uid-launcher"}]  # fmt: skip
