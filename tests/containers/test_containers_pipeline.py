"""The image as it is shipped, and the finetune pipeline in it: artifacts, registry, failures."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from engine import ROOT
from kfp import local
from parity import given_by, given_in
from places import BUCKET, Image, Servers, tell

from components.validate.component import validate
from pipelines.docker_runner import docker_runner, run_container
from ytrainer_core import __version__
from ytrainer_core.errors import StageFailed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = ["validate", "score", "order", "sft", "evaluate", "register", "promote"]
MAX_BYTES = 2.5e9
STOCK_RUNS = 9
SIZES = ("small", "large")
USER = 10001
MODEL = "in-containers"
HOST = {"network_mode": "host"}
"""A podman that is not installed has no bridge."""


# --- the image -----------------------------------------------------------------------------------


def test_the_image_is_small_unprivileged_and_says_what_it_is(image: Image, client: Any) -> None:
    built = client.images.get(image.name)
    tell(f"image: {built.attrs['Size'] / 1e9:.2f} GB")
    assert built.attrs["Size"] <= MAX_BYTES
    config = built.attrs["Config"]
    assert config["User"] == f"{USER}:0"
    assert not config.get("Entrypoint")
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    sha = labels["org.opencontainers.image.revision"]
    assert sha and f"YTRAINER_GIT_SHA={sha}" in config["Env"]


def test_no_layer_keeps_pips_configuration_or_cache(image: Image, client: Any) -> None:
    told = client.containers.run(
        image.name,
        ["sh", "-c", "cat /etc/pip.conf; ls -A ~root ~root/.cache /tmp /opt/build; true"],
        user="0",
        remove=True,
        **HOST,
    ).decode()
    assert "index" not in told and "find-links" not in told
    assert "pip" not in told and ".whl" not in told


@pytest.mark.parametrize("user", ["", "54321:0"])
def test_home_can_be_written_by_the_images_user_and_by_any_other_of_its_group(
    image: Image, client: Any, user: str
) -> None:
    """OpenShift and its like start images under a number of their own in group 0."""
    program = (
        "import getpass, os, pathlib; (pathlib.Path.home() / 'probe').write_text('x'); "
        "print(os.getuid(), getpass.getuser(), os.getcwd())"
    )
    told = client.containers.run(
        image.name, ["python3", "-c", program], user=user or None, remove=True, **HOST
    )
    number = user.partition(":")[0] or str(USER)
    assert told.decode().split() == [number, "ytrainer", "/home/ytrainer"]


def test_every_import_of_the_image_fits_the_others(image: Image, client: Any) -> None:
    told = client.containers.run(image.name, ["python3", "-m", "pip", "check"], remove=True, **HOST)
    assert "No broken requirements" in told.decode()


def test_after_a_change_of_our_code_no_package_is_installed_again(
    image: Image, client: Any, build: Callable[[str, Path], float], tmp_path: Path
) -> None:
    for name in ("ytrainer_core", "components", "pipelines", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "ytrainer_core" / "__init__.py").open("a") as module:
        module.write("\nCHANGED = True\n")
    changed = f"{image.engine.prefix}ytrainer-changed:1"
    tell(f"image: built again in {build(changed, tmp_path):.0f} s after a change of our code")
    before, after = (client.images.get(name).attrs["RootFS"]["Layers"]
                     for name in (image.name, changed))  # fmt: skip
    shared = [one == other for one, other in zip(before, after, strict=True)]
    assert not all(shared) and shared == sorted(shared, reverse=True)
    sizes = [step["Size"] for step in client.images.get(changed).history() if step["Size"]]
    assert sum(sizes[: shared.count(False)]) < 10e6  # the newest come first
    program = "import ytrainer_core; print(ytrainer_core.CHANGED)"
    told = client.containers.run(changed, ["python3", "-c", program], remove=True, **HOST)
    assert told.decode().strip() == "True"


# --- the pipeline --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A run of finetune in containers. root: its pipeline root, written from inside of them."""

    root: Path
    outputs: dict[str, Any]


@pytest.fixture(scope="module")
def corpus(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """50 rows and 10 held out, in the bucket."""
    rows = [
        {"instruction": f"Which size has number {i}?", "output": f"size: {SIZES[i % 2]}"}
        for i in range(60)
    ]
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.put_object(Key="corpus/train.json", Body=json.dumps(rows[:50]).encode())
    bucket.put_object(Key="corpus/validation.json", Body=json.dumps(rows[50:]).encode())
    return {name: f"s3://{BUCKET}/corpus/{name}.json" for name in ("train", "validation")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A pipeline root that the image's user may write."""
    return _writable(tmp_path / "root")


@pytest.fixture(scope="module")
def finished(
    image: Image,
    servers: Servers,
    corpus: dict[str, str],
    base_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    from pipelines import PIPELINES

    root = _writable(tmp_path_factory.mktemp("pipeline"))
    base = _readable(base_folder)
    run = PIPELINES["finetune"]
    started = time.monotonic()
    with _runner(servers, {base: False}) as runner:
        local.init(runner=runner, pipeline_root=str(root))
        task = run(
            model_name_or_path=str(base),
            data_train=corpus["train"],
            data_validation=corpus["validation"],
            max_length=128,
            order_mode="mean_loss",
            learning_rate=1e-2,
            lora_rank=4,
            registered_model_name=MODEL,
            config={
                "train": {"max_steps": 40, "save_steps": 20, "logging_steps": 10},
                "evaluate": {"max_generate_rows": 2, "max_new_tokens": 4},
                "gate": {"min_rows": 10},
            },
        )
    tell(f"pipeline: {len(STEPS)} steps in {time.monotonic() - started:.0f} s")
    return Finished(root, dict(task.outputs))


def test_the_whole_pipeline_runs_in_containers_and_promotes_what_passes(
    finished: Finished,
) -> None:
    assert finished.outputs == {"passed": True, "version": f"models:/{MODEL}/1"}
    assert {path.name for path in next(finished.root.iterdir()).iterdir()} >= set(STEPS)


def test_a_run_in_containers_has_made_what_the_compiled_pipeline_declares(
    finished: Finished,
) -> None:
    compiled = ROOT / "pipelines" / "compiled" / "finetune.yaml"
    declared = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
    assert given_in(finished.root) == given_by(declared)


def test_artifacts_cross_the_mount_and_belong_to_the_images_user(finished: Finished) -> None:
    (model,) = finished.root.rglob("adapter_model.safetensors")
    assert model.stat().st_uid == USER
    reports = [path for path in finished.root.rglob("report") if path.is_file()]
    assert len(reports) == 5
    assert all(path.read_text().lstrip().lower().startswith("<!doctype html") for path in reports)


def test_the_version_is_in_the_servers_registry_with_its_files_in_the_bucket(
    finished: Finished, servers: Servers
) -> None:
    from mlflow.tracking import MlflowClient

    registry = MlflowClient(servers.mlflow, registry_uri=servers.mlflow)
    version = registry.get_model_version_by_alias(MODEL, "champion")
    assert version.version == "1"
    assert version.tags["ytrainer.gate"] == "passed"
    stored = boto3.resource("s3").Bucket(BUCKET).objects.filter(Prefix="mlflow/")
    assert any(each.key.endswith("adapter_model.safetensors") for each in stored)


def test_the_registered_adapter_is_the_one_that_the_step_left(
    finished: Finished, servers: Servers
) -> None:
    from ytrainer_core.config import TrackingConfig
    from ytrainer_core.files import sha256_file
    from ytrainer_core.registry import fetch_registered

    fetched = fetch_registered(f"models:/{MODEL}/1", tracking=TrackingConfig())
    (made,) = finished.root.rglob("adapter_model.safetensors")
    (kept,) = fetched.rglob("adapter_model.safetensors")
    assert sha256_file(kept) == sha256_file(made)


def test_how_soon_a_step_speaks_is_told(
    image: Image,
    servers: Servers,
    corpus: dict[str, str],
    base_folder: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the start of the container to the first line that its step prints."""
    waited: list[float] = []

    def hear(container: Any) -> None:  # called when the container has been started
        began = time.monotonic()
        lines = container.logs(stream=True, follow=True)
        next(lines)
        waited.append(time.monotonic() - began)
        for _ in lines:
            pass

    monkeypatch.setattr("pipelines.docker_runner._print_logs", hear)
    base = _readable(base_folder)
    with _runner(servers, {base: False}) as runner:
        local.init(runner=runner, pipeline_root=str(root))
        validate(data_train=corpus["train"], model_name_or_path=str(base), max_length=128)
    assert len(waited) == 1 and waited[0] > 0
    tell(f"a step's first line: {waited[0]:.1f} s after its container started")


# --- failures ------------------------------------------------------------------------------------


def test_a_step_that_refuses_its_data_fails_the_run_and_says_why(
    image: Image,
    servers: Servers,
    corpus: dict[str, str],
    base_folder: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = _readable(base_folder)
    with _runner(servers, {base: False}) as runner:
        local.init(runner=runner, pipeline_root=str(root))
        with pytest.raises(RuntimeError, match="FAILURE"):
            validate(data_train=f"s3://{BUCKET}/corpus/missing.json", model_name_or_path=str(base))
    assert "DataError: " in capsys.readouterr().out


def test_a_step_that_fails_at_once_fails_every_time(image: Image, client: Any) -> None:
    command = ["sh", "-c", "exit 3"]
    codes = [run_container(client, image.name, command, {}, **HOST) for _ in range(STOCK_RUNS)]
    assert codes == [3] * STOCK_RUNS


def test_how_often_kfps_own_runner_hides_such_a_failure_is_told(image: Image, client: Any) -> None:
    """A race, so no number is asserted: it says 3 or 0, or finds its container gone."""
    from docker.errors import APIError
    from kfp.local.docker_task_handler import run_docker_container

    told: Counter[int | str] = Counter()
    for _ in range(STOCK_RUNS):
        try:
            told[run_docker_container(client, image.name, ["sh", "-c", "exit 3"], {}, **HOST)] += 1
        except APIError:
            told["error"] += 1
    tell(f"kfp's own runner: {told[0]} of {STOCK_RUNS} failures hidden, {told['error']} errors")
    assert set(told) <= {0, 3, "error"}


def test_a_step_leaves_no_container_behind_and_its_output_is_whole(
    image: Image, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import sys; sys.stdout.buffer.write('é中✓'.encode() * 20000)"
    name = "ytrainer-test-output"
    command = ["python3", "-c", program]
    assert run_container(client, image.name, command, {}, name=name, **HOST) == 0
    assert capsys.readouterr().out == "é中✓" * 20000
    assert client.containers.list(all=True, filters={"name": name}) == []


def test_an_image_that_is_nowhere_is_named(client: Any) -> None:
    with pytest.raises(StageFailed, match="localhost/nowhere:1 is neither on this machine"):
        run_container(client, "localhost/nowhere:1", ["true"], {}, **HOST)


# --- helpers -------------------------------------------------------------------------------------


def _runner(servers: Servers, folders: dict[Path, bool]) -> Any:
    """Steps reach the servers, but share nothing with this machine or each other but artifacts."""
    return docker_runner(
        environment={**servers.variables, "OMP_NUM_THREADS": "1"},
        folders=folders,
        **HOST,
    )


def _writable(folder: Path) -> Path:
    """A folder that every user may write, in parents that every user may pass."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


def _readable(folder: Path) -> Path:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_cache_of_kfp() -> Iterator[None]:
    """kfp.local keeps its settings in a global."""
    yield
    local.config.LocalExecutionConfig.instance = None
