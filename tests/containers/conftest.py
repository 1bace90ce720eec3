"""An engine, the cpu image built in it from the Dockerfile, and the servers that steps reach.

`make test-containers` asks for them; other runs of pytest skip what needs them.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine import ROOT, Engine, NoEngine, open_engine
from mlflow_server import Server
from object_storage import VARIABLES, s3_bucket
from places import BUCKET, FIGURES, Image, Servers, tell

from components import IMAGE
from ytrainer_core import __version__

ASKED_FOR = "TEST_CONTAINERS"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for figure in FIGURES:
        terminalreporter.write_line(figure)


def load(name: str) -> ModuleType:
    """A script of docker/, which is no package (its name is that of docker's client)."""
    spec = importlib.util.spec_from_file_location(f"docker_{name}", ROOT / "docker" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build_script() -> ModuleType:
    return load("build")


@pytest.fixture(scope="session")
def requirements_script() -> ModuleType:
    return load("requirements")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if os.environ.get(ASKED_FOR) != "1":
        pytest.skip("builds an image and runs containers: make test-containers")
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        try:
            with open_engine() as opened:
                for name, value in opened.variables.items():
                    if name == "DOCKER_HOST":
                        patch.setenv(name, value)
                tell(f"engine: {opened.tool}, ready in {time.monotonic() - started:.0f} s")
                yield opened
        except NoEngine as reason:
            pytest.skip(str(reason))


@pytest.fixture(scope="session")
def build(engine: Engine, build_script: Any) -> Callable[[str, Path], float]:
    """build(name, checkout) -> seconds; the cpu image, by the release's own command."""
    arguments = {"VERSION": __version__, "GIT_SHA": build_script.commit()}
    if index := os.environ.get("TORCH_INDEX"):
        arguments["TORCH_INDEX"] = index

    def do(name: str, checkout: Path) -> float:
        command = build_script.build_command(
            engine.tool, "cpu", [name], arguments, engine.pip_conf, engine.build_words
        )
        started = time.monotonic()
        said = engine.run(command, cwd=checkout)
        assert said.returncode == 0, f"{said.stdout[-2000:]}\n{said.stderr[-4000:]}"
        return time.monotonic() - started

    return do


@pytest.fixture(scope="session")
def image(engine: Engine, build: Callable[[str, Path], float]) -> Image:
    name = f"{engine.prefix}{IMAGE}"
    tell(f"image: built in {build(name, ROOT):.0f} s")
    return Image(name, engine)


@pytest.fixture(scope="session")
def client(image: Image) -> Iterator[Any]:
    """docker's client, on the engine that has the image."""
    import docker

    opened = docker.from_env()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both servers on this machine; a container reaches them where it has the host's network."""
    with (
        s3_bucket(BUCKET),
        Server(tmp_path_factory.mktemp("servers"), f"s3://{BUCKET}/mlflow") as mlflow,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
        names = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", *VARIABLES)
        yield Servers(mlflow.uri, {name: os.environ[name] for name in names})
