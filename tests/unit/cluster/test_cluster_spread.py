"""A task on several nodes gives the metrics, the result and the errors that its workers tell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kubernetes_stub import COMPLETE, NAMESPACE, Cluster, condition, counts, serving

from ytrainer_core.cluster.api import KubernetesApi
from ytrainer_core.cluster.spread import FOLDER_NAME, launch_on_nodes
from ytrainer_core.cluster.trainjob import Nodes, SharedVolume, trainjob_manifest
from ytrainer_core.config import SftConfig
from ytrainer_core.errors import Cancelled, ConfigError, DataError, StageFailed
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
def nodes(tmp_path: Path) -> Nodes:
    return Nodes("image", 2, 1, volumes=(SharedVolume("work", str(tmp_path)),))


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Iterator[KubernetesApi]:
    with serving(cluster) as url:
        yield KubernetesApi(url, NAMESPACE, account=tmp_path, patience=5)


@pytest.fixture
def launch(
    api: KubernetesApi, nodes: Nodes, tmp_path: Path, logged: Logged
) -> Callable[..., TrainResult]:
    """launch(config tree, corpus=…, base=…, order_file=…) -> the result of such a task."""

    def do(config: dict[str, Any] | None = None, **inputs: str) -> TrainResult:
        task = TrainingTask(
            stage="sft",
            config=SftConfig(**(config or {})).model_dump(mode="json"),
            data_sha256="",
            base_reference={},
            root=str(tmp_path / "0123abcd"),
            run_id="",
            **{"corpus": "", "base": "", "order_file": "", **inputs},
        )
        return launch_on_nodes(
            task,
            nodes,
            lambda metrics, step: logged.append((metrics, step)),
            api=api,
            pod="launcher",
            say=lambda line: None,
            poll_seconds=0.01,
        )

    return do


def append(shared: Path, text: str) -> None:
    with (shared / METRICS_NAME).open("a") as file:
        file.write(text)


def tell(shared: Path, rank: int, kind: str, fault: str) -> None:
    """An error that comes a second after the one told before."""
    second = len(list(shared.glob(f"{ERROR_NAME}.*")))
    path = shared / f"{ERROR_NAME}.{rank}"
    write_json(path, {"kind": kind, "faults": [fault]})
    os.utime(path, (second, second))


def test_metrics_come_while_it_trains_and_the_result_in_the_end(
    cluster: Cluster, shared: Path, logged: Logged, launch: Callable[..., TrainResult]
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
    cluster: Cluster, shared: Path, launch: Callable[..., TrainResult]
) -> None:
    write_json(shared / RESULT_NAME, asdict(RESULT))
    with pytest.raises(StageFailed, match="left no result"):
        launch()


def test_the_error_that_a_worker_told_is_raised_with_its_class(
    cluster: Cluster, shared: Path, launch: Callable[..., TrainResult]
) -> None:
    def fail() -> dict[str, Any]:
        tell(shared, 0, "", "Traceback of what the other one's end did to this one")
        tell(shared, 1, "DataError", "rows.json:3: has no answer.")
        return FAILED

    cluster.scenes = [fail]
    with pytest.raises(DataError, match=r"rows\.json:3: has no answer\."):
        launch()


@pytest.mark.parametrize("end", [COMPLETE, FAILED])
def test_nodes_that_were_asked_to_stop_are_cancelled_however_they_ended(
    end: dict[str, Any], cluster: Cluster, shared: Path, launch: Callable[..., TrainResult]
) -> None:
    def stop() -> dict[str, Any]:
        tell(shared, 0, "Cancelled", "stopped by SIGTERM after step 2 of 4.")
        tell(shared, 1, "", "Traceback of what the other one's end did to this one")
        return end

    cluster.scenes = [stop]
    with pytest.raises(Cancelled, match="after step 2 of 4"):
        launch()


def test_nodes_that_are_stopped_because_one_failed_have_failed(
    cluster: Cluster, shared: Path, launch: Callable[..., TrainResult]
) -> None:
    def fail() -> dict[str, Any]:
        tell(shared, 1, "", "Traceback of an error that nobody foresaw")
        tell(shared, 0, "Cancelled", "stopped by SIGTERM after step 2 of 4.")
        return FAILED

    cluster.scenes = [fail]
    with pytest.raises(StageFailed, match="jobset failed"):
        launch()


def test_the_job_belongs_to_the_launchers_pod(
    cluster: Cluster, shared: Path, launch: Callable[..., TrainResult]
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


def test_inputs_on_the_steps_own_disk_are_copied_to_where_the_nodes_see_them(
    cluster: Cluster,
    shared: Path,
    launch: Callable[..., TrainResult],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    own = tmp_path_factory.mktemp("minio")
    (own / "dataset").mkdir()
    (own / "dataset" / "rows.arrow").write_text("rows")
    (own / "order").write_text("[1, 0]")
    (tmp_path / "base").mkdir()
    seen: dict[str, Any] = {}

    def look() -> dict[str, Any]:
        seen.update(json.loads((shared / TASK_NAME).read_text())["task"])
        assert (Path(seen["corpus"]) / "rows.arrow").read_text() == "rows"
        assert Path(seen["order_file"]).read_text() == "[1, 0]"
        write_json(shared / RESULT_NAME, asdict(RESULT))
        return COMPLETE

    cluster.scenes = [look]
    launch(corpus=str(own / "dataset"), order_file=str(own / "order"), base=str(tmp_path / "base"))
    assert (seen["corpus"], seen["order_file"]) == (
        str(shared / "corpus"),
        str(shared / "order_file"),
    )
    assert seen["base"] == str(tmp_path / "base") and not (shared / "base").exists()


def test_files_that_only_the_step_has_are_refused_all_at_once(
    cluster: Cluster,
    launch: Callable[..., TrainResult],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path_factory.mktemp("own")
    (tmp_path / "teacher").mkdir()
    monkeypatch.chdir(tmp_path)  # what is relative to it means another place on the nodes
    config = {
        "model": {"init_from": str(own)},
        "objective": {"distillation": {"teacher": "teacher"}},
    }
    with pytest.raises(ConfigError) as caught:
        launch(config)
    first, second = caught.value.faults
    assert first.startswith(f"model.init_from={own}: lies on no volume that the nodes share")
    assert second.startswith("objective.distillation.teacher=teacher: lies on no volume")
    assert cluster.made == 0


@pytest.mark.parametrize(("task_is_there", "made"), [(True, 1), (False, 2)])
def test_a_restarted_launcher_goes_on_with_the_job_only_where_its_task_is_still_there(
    task_is_there: bool,
    made: int,
    cluster: Cluster,
    api: KubernetesApi,
    nodes: Nodes,
    shared: Path,
    launch: Callable[..., TrainResult],
) -> None:
    labels = {"ytrainer/attempt": "0123456789abcdef"}
    earlier = trainjob_manifest("ytrainer-0123abcd", str(shared), nodes, labels=labels)

    def work() -> dict[str, Any]:
        write_json(shared / RESULT_NAME, asdict(RESULT))
        return COMPLETE

    cluster.scenes = [counts(active=2), work]
    api.ask("POST", f"/apis/{earlier['apiVersion']}/namespaces/{NAMESPACE}/trainjobs", earlier)
    if task_is_there:
        write_json(shared / TASK_NAME, {"attempt": "0123456789abcdef"})
    assert launch() == RESULT
    assert cluster.made == made
