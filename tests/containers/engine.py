"""A container engine for the tests: docker's daemon if it runs, else a podman of our own.

The second needs root on Debian and leaves nothing behind. Its programs are unpacked into a
temporary folder, where images and containers lie too; two libraries are installed meanwhile, as
the helpers that podman starts do not inherit where to look for them. No registry is asked: the
image that the Dockerfile starts from is made from Debian's packages and given that name.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = ("podman", "runc", "conmon", "mmdebstrap")
_PACKAGES = ("podman", "runc", "mmdebstrap")
_LIBRARIES = ("libgpgme11", "libsubid4")
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_PROCESSES = 4096
_START_SECONDS = 60.0


class NoEngine(Exception):
    """Containers cannot run here; the message says why."""


@dataclass(frozen=True)
class Engine:
    """How to reach an engine.

    tool: the program that builds. variables: environment of that program and of docker's client.
    build_words: what a build here needs besides. prefix: of the names of images without registry.
    """

    tool: str
    variables: dict[str, str] = field(default_factory=dict)
    build_words: tuple[str, ...] = ()
    pip_conf: Path | None = None
    prefix: str = ""

    def run(self, words: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program that sees the engine; the result holds what it printed."""
        return _run(words, self.variables, **options)


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """The engine of this machine. Raises NoEngine where there is none."""
    if _docker_answers():
        yield Engine("docker")
        return
    if reason := _why_not_podman():
        raise NoEngine(reason)
    folder = Path(tempfile.mkdtemp(prefix="ytc-", dir="/var/tmp"))  # a socket's path must be short
    try:
        yield from _podman(folder)
    finally:
        _remove(folder)


def base_name() -> str:
    """What the Dockerfile's cpu image starts from."""
    lines = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("ARG CPU_BASE=")).partition("=")[2]


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _why_not_podman() -> str:
    """Empty where podman can be had: as root on Debian, with overlayfs in the kernel."""
    release = Path("/etc/os-release")
    if os.geteuid() != 0 or not release.exists() or "ID=debian" not in release.read_text():
        return "no docker daemon answers, and without one this needs root on Debian"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no docker daemon answers, and the kernel has no overlayfs for podman"
    return ""


# --- a podman of our own --------------------------------------------------------------------------


def _podman(folder: Path) -> Iterator[Engine]:
    tools = _tools(folder)
    try:
        yield from _serve(folder, _configure(folder, tools.variables))
    finally:
        if tools.libraries:
            _run(["dpkg", "--purge", *tools.libraries])


def _serve(folder: Path, variables: dict[str, str]) -> Iterator[Engine]:
    _make_base(folder, variables)
    said = _run(["podman", "run", "--rm", base_name(), "true"], variables)
    if said.returncode != 0:
        raise NoEngine(f"no docker daemon answers, and podman may run nothing: {_end_of(said)}")
    socket = folder / "podman.sock"
    service = subprocess.Popen(
        ["podman", "system", "service", "--time", "0", f"unix://{socket}"],
        env={**os.environ, **variables},
        stderr=(folder / "service.txt").open("w"),
    )
    try:
        until = time.monotonic() + _START_SECONDS
        while not socket.exists():
            assert service.poll() is None, (folder / "service.txt").read_text()
            assert time.monotonic() < until, "podman's service does not start"
            time.sleep(0.1)
        yield Engine(
            "podman",
            {**variables, "DOCKER_HOST": f"unix://{socket}"},
            ("--pull=never", "--network=host", *_mounts_for_pip()),
            _pip_conf(folder),
            "docker.io/library/",
        )
    finally:
        service.terminate()
        service.wait()
        _run(["podman", "rm", "--all", "--force"], variables)


@dataclass(frozen=True)
class _Tools:
    """variables: with which the programs are found. libraries: packages that were installed."""

    variables: dict[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()


def _tools(folder: Path) -> _Tools:
    """podman and its helpers, unpacked first where they are not here."""
    if all(map(shutil.which, _PROGRAMS)):
        return _Tools()
    packages, tools = folder / "packages", folder / "tools"
    (packages / "partial").mkdir(parents=True)
    where = f"Dir::Cache::archives={packages}"
    options = ["-y", "-qq", "--no-install-recommends", "--download-only", "-o", where]
    _run(["apt-get", "update", "-qq"])  # a foreign source may fail, and does not matter
    said = _run(["apt-get", "install", *options, *_PACKAGES])
    if said.returncode != 0:
        raise NoEngine(f"no docker daemon answers, and podman cannot be had: {_end_of(said)}")
    libraries = []
    for package in packages.glob("*.deb"):
        name = package.name.partition("_")[0]
        if name in _LIBRARIES:
            libraries.append(name)
            said = _run(["dpkg", "--install", str(package)])
        else:
            said = _run(["dpkg", "--extract", str(package), str(tools)])
        assert said.returncode == 0, said.stderr
    path = f"{os.environ['PATH']}:{tools}/usr/bin:{tools}/usr/sbin"
    return _Tools({"PATH": path}, tuple(libraries))


def _configure(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """Write what podman reads, and name it: nothing of the machine's own configuration is read."""

    def program(name: str) -> str:
        path = shutil.which(name, path=variables.get("PATH"))
        assert path, f"{name} was not found"
        return path

    files = _hard_limit_of_files()
    texts = {
        "containers.conf": f"""
[containers]
netns = "host"
default_ulimits = ["nofile={files}:{files}", "nproc={_PROCESSES}:{_PROCESSES}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["{program("conmon")}"]
[engine.runtimes]
runc = ["{program("runc")}"]
""",
        "storage.conf": f"""
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
""",
        "registries.conf": "unqualified-search-registries = []\n",
        ".config/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {
        **variables,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "CONTAINERS_CONF": f"{folder}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{folder}/registries.conf",
    }


def _make_base(folder: Path, variables: dict[str, str]) -> None:
    """A stand-in for the image that the Dockerfile starts from: Debian with its own Python."""
    release = Path("/etc/os-release").read_text().splitlines()
    suite = next(line for line in release if line.startswith("VERSION_CODENAME=")).partition("=")[2]
    archive = folder / "base.tar"
    options = ["--variant=apt", f"--include={_BASE_PACKAGES}", "--dpkgopt=force-unsafe-io"]
    for words in (
        ["mmdebstrap", *options, suite, str(archive)],
        ["podman", "import", "--quiet", str(archive), f"docker.io/library/{base_name()}"],
    ):
        said = _run(words, variables)
        assert said.returncode == 0, f"{words[0]}: {said.stderr}"
    archive.unlink()


def _remove(folder: Path) -> None:
    """Remove all of it, whatever is still mounted below."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted(filter(lambda each: each.startswith(f"{folder}/"), mounted), reverse=True):
        _run(["umount", "--lazy", path])
    shutil.rmtree(folder, ignore_errors=True)


# --- pip in a build finds what pip on this machine finds ------------------------------------------


def _pip_settings() -> dict[str, str]:
    """pip's settings, those of the environment last."""
    said = _run([sys.executable, "-m", "pip", "config", "list"])
    pairs = (line.partition("=") for line in said.stdout.splitlines() if "=" in line)
    settings = {name: value.strip("'\"") for name, _, value in pairs}
    last = {name: value for name, value in settings.items() if name.startswith(":env:")}
    return {name.rpartition(".")[2]: value for name, value in {**settings, **last}.items()}


def _pip_conf(folder: Path) -> Path:
    path = folder / "pip.conf"
    lines = [f"{name} = {value}" for name, value in _pip_settings().items()]
    path.write_text("\n".join(["[global]", *lines, ""]))
    return path


def _mounts_for_pip() -> list[str]:
    """Folders and files of this machine that pip's settings name, read-only at their places."""
    words = [word for value in _pip_settings().values() for word in value.split()]
    indexes = [Path(word.removeprefix("file://")) for word in words if word.startswith("file://")]
    paths = [Path(word) for word in words if word.startswith("/")]
    paths += [index.parent for index in indexes]  # the pages of an index lie beside its files
    return [f"--volume={path}:{path}:ro" for path in sorted(set(paths)) if path.exists()]


def _hard_limit_of_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _end_of(said: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a program complained of."""
    return (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]


def _run(
    words: Sequence[str], variables: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(words),
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
