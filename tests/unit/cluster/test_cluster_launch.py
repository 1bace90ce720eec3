"""A TrainJob is made, followed and cleaned up, whatever the cluster does meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_stub import COMPLETE, NAMESPACE, Cluster, condition, counts, serving

from ytrainer_core.cluster import api as api_module
from ytrainer_core.cluster.api import KubernetesApi, KubernetesError
from ytrainer_core.cluster.launch import owner_pod, run_trainjob
from ytrainer_core.cluster.trainjob import Nodes, SharedVolume, trainjob_manifest
from ytrainer_core.errors import Cancelled, ConfigError, StageFailed, TimedOut

POLL = 0.01
RUNNING = counts(active=2)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    return tmp_path


@pytest.fixture
def api(
    cluster: Cluster, account: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[KubernetesApi]:
    monkeypatch.setattr(api_module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(api_module, "_LONGEST_PAUSE_SECONDS", 0.02)
    with serving(cluster) as url:
        yield KubernetesApi(url, NAMESPACE, account=account, patience=30, say=said.append)


@pytest.fixture
def run(api: KubernetesApi, said: list[str]) -> Callable[..., None]:
    """run(owner) -> the TrainJob `train`, from its making to its end."""

    def do(owner: dict[str, Any] | None = None) -> None:
        run_trainjob(api, manifest(owner=owner), say=said.append, poll_seconds=POLL)

    return do


def manifest(
    image: str = "registry/ytrainer:1", owner: dict[str, Any] | None = None
) -> dict[str, Any]:
    nodes = Nodes(image, 2, 1, volumes=(SharedVolume("work", "/data"),))
    return trainjob_manifest("train", "/data/task", nodes, owner=owner)


def stamped(*texts: str, second: int = 1) -> list[tuple[str, str]]:
    """Lines of a log, all within one second."""
    return [(f"2026-01-01T00:00:{second:02d}.{i:03d}Z", text) for i, text in enumerate(texts)]


def test_a_job_that_completes_tells_its_states_once_and_is_gone(
    cluster: Cluster, run: Callable[..., None], said: list[str]
) -> None:
    queued = condition("Suspended", "Suspended")
    cluster.scenes = [{}, queued, RUNNING, RUNNING, counts(active=2, ready=2), COMPLETE]
    run()
    assert said == [
        "TrainJob train: created",
        "TrainJob train: waits for its pods",
        "TrainJob train: waits in the queue (suspended)",
        "TrainJob train: node 2 active",
        "TrainJob train: node 2 active, 2 ready",
        "TrainJob train: complete",
    ]
    assert cluster.jobs == {} and cluster.made == 1


def test_every_line_of_the_first_node_is_passed_on_once(
    cluster: Cluster, run: Callable[..., None], said: list[str]
) -> None:
    lines = [f"step {i}" for i in range(7)]
    cluster.add_pod("train-node-0-0", 0, phase="Succeeded", log=stamped(*lines))
    cluster.add_pod("train-node-0-1", 1, phase="Succeeded", log=stamped("of the other node"))
    cluster.scenes = [RUNNING, COMPLETE]
    run()
    assert [line for line in said if not line.startswith("TrainJob")] == lines


def test_no_line_is_lost_or_repeated_where_the_connection_breaks(
    cluster: Cluster, run: Callable[..., None], said: list[str]
) -> None:
    log = stamped("a", "a", "b", second=1) + stamped("c", second=2) + stamped("d", second=3)
    same_time = [("2026-01-01T00:00:04Z", "e"), ("2026-01-01T00:00:04Z", "e")]
    cluster.add_pod("train-node-0-0", 0, log=log + same_time)
    cluster.cut_logs_after = 4

    def end_when_all_was_said() -> dict[str, Any]:
        if said[-1] != "e" or said[-2] != "e":
            return RUNNING
        cluster.pods["train-node-0-0"]["status"]["phase"] = "Succeeded"
        return COMPLETE

    cluster.scenes = [end_when_all_was_said]
    run()
    texts = [line for line in said if not line.startswith("TrainJob")]
    assert texts == ["a", "a", "b", "c", "d", "e", "e"]


def test_the_pod_that_replaces_the_first_one_is_followed(
    cluster: Cluster, run: Callable[..., None], said: list[str]
) -> None:
    cluster.add_pod("train-node-0-0-old", 0, phase="Failed", log=stamped("before"))

    def replace() -> dict[str, Any]:
        if "before" in said and len(cluster.pods) == 1:
            created = "2026-01-01T01:00:00Z"
            log = stamped("after")
            cluster.add_pod("train-node-0-0-new", 0, phase="Succeeded", created=created, log=log)
        return COMPLETE if "after" in said else RUNNING

    cluster.scenes = [replace]
    run()
    assert [line for line in said if not line.startswith("TrainJob")] == ["before", "after"]


def test_a_failure_tells_each_failed_pods_reason_exit_code_and_last_lines(
    cluster: Cluster, run: Callable[..., None]
) -> None:
    cluster.scenes = [RUNNING, condition("Failed", "FailedJobs", "jobset failed")]
    cluster.add_pod("train-node-0-0", 0, phase="Failed", ended={"exitCode": 1, "reason": "Error"},
                    log=stamped(*(f"line {i}" for i in range(40))))  # fmt: skip
    cluster.add_pod("train-node-0-1", 1, phase="Failed",
                    ended={"exitCode": 137, "reason": "OOMKilled"})  # fmt: skip
    cluster.add_pod("train-node-0-2", 2, phase="Succeeded", ended={"exitCode": 0})
    with pytest.raises(StageFailed) as caught:
        run()
    first, zero, one = caught.value.faults
    assert first == "TrainJob train: FailedJobs: jobset failed."
    assert "train-node-0-0 (node 0): Error, exit code 1" in zero
    assert "line 39" in zero and "line 25" in zero and "line 24" not in zero
    assert "train-node-0-1 (node 1): OOMKilled, exit code 137, which is memory running out" in one
    assert cluster.jobs == {}


def test_a_deadline_is_a_time_out(cluster: Cluster, run: Callable[..., None]) -> None:
    cluster.scenes = [condition("Failed", "DeadlineExceeded", "active longer than allowed")]
    with pytest.raises(TimedOut, match="active longer than allowed"):
        run()
    assert cluster.jobs == {}


def test_a_job_deleted_by_somebody_else_is_a_failure(
    cluster: Cluster, run: Callable[..., None]
) -> None:
    def delete() -> dict[str, Any]:
        del cluster.jobs["train"]["scenes"][:]
        cluster.jobs["train"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cluster.slow_to_delete = 1
        return RUNNING

    cluster.scenes = [RUNNING, delete, RUNNING]
    with pytest.raises(StageFailed, match="was deleted by somebody else"):
        run()
    assert cluster.jobs == {}


def test_sigterm_deletes_the_job_and_waits_until_it_is_gone(
    cluster: Cluster, run: Callable[..., None]
) -> None:
    def terminate() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        cluster.slow_to_delete = 3
        return RUNNING

    before = signal.getsignal(signal.SIGTERM)
    cluster.scenes = [RUNNING, terminate]
    with pytest.raises(Cancelled, match="TrainJob train is deleted"):
        run()
    assert cluster.jobs == {}
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("status", [500, 503, 429])
def test_trouble_that_passes_is_borne_and_told_once(
    status: int, cluster: Cluster, run: Callable[..., None], said: list[str]
) -> None:
    cluster.refusals = [status] * 4
    run()
    told = [line for line in said if "does not answer as it should" in line]
    assert len(told) == 1 and f"refused with {status}" in told[0]
    assert cluster.made == 1


def test_an_api_that_stays_away_is_told_and_the_job_left_alone(
    cluster: Cluster, api: KubernetesApi, run: Callable[..., None]
) -> None:
    api.patience = 0.3

    def fall_ill() -> dict[str, Any]:
        cluster.refusals = [503] * 10_000
        return RUNNING

    cluster.scenes = [fall_ill]
    with pytest.raises(KubernetesError, match="what runs is found again"):
        run()
    assert list(cluster.jobs) == ["train"]
    cluster.refusals, cluster.jobs["train"]["scenes"] = [], [RUNNING, RUNNING, COMPLETE]
    run()
    assert cluster.made == 1 and cluster.jobs == {}


def test_a_renewed_token_is_read(cluster: Cluster, account: Path, run: Callable[..., None]) -> None:
    cluster.token = "first"

    def renew() -> dict[str, Any]:
        cluster.token = "second"
        (account / "token").write_text("second\n")
        return RUNNING

    cluster.scenes = [renew, COMPLETE]
    run()
    assert cluster.jobs == {}


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "token of the service account"), (403, "a role with create"), (404, "Kubeflow Trainer")],
)
def test_a_refusal_says_what_to_do(
    status: int, remedy: str, cluster: Cluster, run: Callable[..., None]
) -> None:
    if status == 404:
        cluster.refusals = [404, 404]  # no such job, and no such kind
    else:
        cluster.refusals = [status] * 2
    with pytest.raises(KubernetesError, match=remedy) as caught:
        run()
    assert caught.value.status == status
    assert len(cluster.requests) == (1 if status == 403 else 2)
    assert cluster.made == 0


def test_a_job_that_is_at_work_already_is_gone_on_with(
    cluster: Cluster, api: KubernetesApi, run: Callable[..., None], said: list[str]
) -> None:
    cluster.scenes = [RUNNING, RUNNING, COMPLETE]
    api.ask("POST", f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs",
            manifest())  # fmt: skip
    run()
    assert cluster.made == 1 and "TrainJob train: is there already; going on with it" in said


def test_a_job_that_is_gone_on_with_belongs_to_the_pod_that_does(
    cluster: Cluster, api: KubernetesApi, run: Callable[..., None]
) -> None:
    """With the pod that made it, the cluster would delete it in the middle."""
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
    first, second = ({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": f"uid-of-{name}"}
                     for name in ("lost", "launcher"))  # fmt: skip
    owners: list[Any] = []

    def look() -> dict[str, Any]:
        owners.append(cluster.jobs["train"]["metadata"]["ownerReferences"])
        return RUNNING if len(owners) < 2 else COMPLETE

    cluster.scenes = [look]
    api.ask("POST", path, manifest(owner=first))
    run(owner=second)
    assert cluster.made == 1 and owners[-1] == [second]


@pytest.mark.parametrize("earlier", ["another", "failed", "going"])
def test_a_job_that_is_another_or_over_or_going_is_made_anew(
    earlier: str, cluster: Cluster, api: KubernetesApi, run: Callable[..., None]
) -> None:
    cluster.scenes = [condition("Failed", "FailedJobs") if earlier == "failed" else RUNNING]
    image = "registry/ytrainer:2" if earlier == "another" else "registry/ytrainer:1"
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
    api.ask("POST", path, manifest(image))
    if earlier == "going":
        cluster.jobs["train"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cluster.slow_to_delete = 2
    cluster.scenes = [COMPLETE]
    run()
    assert cluster.made == 2 and cluster.jobs == {}


def test_a_lost_answer_makes_no_second_job(cluster: Cluster, run: Callable[..., None]) -> None:
    cluster.lose_answer_to_post = True
    cluster.scenes = [RUNNING, COMPLETE]
    run()
    assert cluster.made == 1 and cluster.jobs == {}


def test_the_owner_is_the_launchers_own_pod(cluster: Cluster, api: KubernetesApi) -> None:
    cluster.add_pod("launcher-abc", 0)
    owner = owner_pod(api, "launcher-abc")
    assert owner == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "launcher-abc",
        "uid": "uid-launcher-abc",
    }
    nodes = Nodes("image", 2, 1, volumes=(SharedVolume("work", "/data"),))
    made = trainjob_manifest("train", "/data/task", nodes, owner=owner)
    assert made["metadata"]["ownerReferences"] == [owner]


def test_inside_a_cluster_the_api_is_found_and_outside_it_is_said(
    account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"launch\.nodes=1"):
        KubernetesApi.in_cluster(account=account)
    (account / "namespace").write_text("team\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    found = KubernetesApi.in_cluster(account=account)
    assert (found.url, found.namespace) == ("https://[fd00::1]:6443", "team")
