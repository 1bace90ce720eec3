"""What docker/ decides before any engine is asked: tool, names, words, packages."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "ab" * 32


def only(*tools: str) -> Any:
    """A machine on which these tools work."""
    return lambda command: command[0] in tools


# --- tool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there, chosen",
    [
        (("docker", "podman", "buildah"), "docker"),
        (("podman", "buildah"), "podman"),
        (("buildah",), "buildah"),
    ],
)
def test_the_first_tool_that_works_builds(
    build_script: Any, there: Sequence[str], chosen: str
) -> None:
    assert build_script.choose_tool(only(*there)) == chosen


def test_where_no_tool_works_the_error_names_one_to_install(build_script: Any) -> None:
    with pytest.raises(build_script.BuildError, match="apt-get install podman"):
        build_script.choose_tool(only())


def test_a_client_whose_daemon_does_not_answer_is_no_tool(
    build_script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in (("docker", 1), ("podman", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert build_script.choose_tool() == "podman"


# --- names ---------------------------------------------------------------------------------------


def test_an_image_is_named_after_version_and_commit(build_script: Any) -> None:
    assert build_script.tags("reg/ytrainer", "1.2.0", "c0ffee", "cpu") == [
        "reg/ytrainer:1.2.0",
        "reg/ytrainer:1.2.0-c0ffee",
    ]
    assert build_script.tags("reg/ytrainer", "1.2.0", "c0ffee", "gpu") == [
        "reg/ytrainer:1.2.0-gpu",
        "reg/ytrainer:1.2.0-c0ffee-gpu",
    ]


def test_the_cpu_images_name_without_a_registry_is_the_components_image(build_script: Any) -> None:
    from components import IMAGE

    names = build_script.tags(build_script.REPOSITORY, build_script.version(), "c0ffee", "cpu")
    assert names[0] == IMAGE


@pytest.mark.parametrize(
    "name, reference",
    [
        ("ytrainer:1.2.0", f"ytrainer@{DIGEST}"),
        ("reg.local:5000/team/ytrainer:1.2.0-gpu", f"reg.local:5000/team/ytrainer@{DIGEST}"),
        ("reg.local:5000/ytrainer", f"reg.local:5000/ytrainer@{DIGEST}"),
    ],
)
def test_a_digest_takes_the_place_of_the_tag_and_leaves_a_port(
    build_script: Any, name: str, reference: str
) -> None:
    assert build_script.with_digest(name, DIGEST) == reference


def test_a_checkout_with_changes_is_no_commit(build_script: Any, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert build_script.commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    sha = git("rev-parse", "HEAD")[:12]
    assert build_script.commit(tmp_path) == sha
    (tmp_path / "file").write_text("2")
    assert build_script.commit(tmp_path) == f"{sha}-dirty"


# --- words ---------------------------------------------------------------------------------------


def test_pips_configuration_goes_into_the_build_as_a_secret_only(build_script: Any) -> None:
    command = build_script.build_command(
        "docker", "gpu", ["a:1", "a:2"], {"VERSION": "1"}, Path("/home/me/pip.conf")
    )
    assert command[:4] == ["docker", "build", "--target", "gpu"]
    assert command[command.index("--secret") + 1] == "id=pip,src=/home/me/pip.conf"
    assert [word for word in command if "pip.conf" in word] == ["id=pip,src=/home/me/pip.conf"]
    assert command[command.index("--build-arg") + 1] == "VERSION=1"
    assert [command[i + 1] for i, word in enumerate(command) if word == "--tag"] == ["a:1", "a:2"]
    assert command[-1] == "."


@pytest.mark.parametrize("tool", ["docker", "podman"])
def test_a_push_tells_the_digest_that_the_registry_gave(
    build_script: Any, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tools are stood in for: docker prints the digest, the others write it to a file."""
    program = tmp_path / tool
    say = f'echo "1.2.0: digest: {DIGEST} size: 1"' if tool == "docker" else f'echo {DIGEST} >"$3"'
    program.write_text(f'#!/bin/sh\ntest "$1" = push || exit 1\n{say}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert build_script.push(tool, "reg/ytrainer:1.2.0") == f"reg/ytrainer@{DIGEST}"


def test_a_refused_push_says_why(
    build_script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "podman").write_text("#!/bin/sh\necho 'unauthorized: log in first' >&2\nexit 125\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(build_script.BuildError, match=r"reg/ytrainer:1 could not be.*log in first"):
        build_script.push("podman", "reg/ytrainer:1")


def test_a_push_without_a_registry_is_refused_before_anything_is_built(
    build_script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_script.main(["--push", "--tool", "podman"]) == 1
    assert "--repository REGISTRY/NAME" in capsys.readouterr().err


# --- packages ------------------------------------------------------------------------------------


def test_an_images_packages_are_the_projects_without_torch(
    requirements_script: Any, tmp_path: Path
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        "[project]\ndependencies = ['torch>=2', 'torch-other', 'numpy>=2']\n"
        "[project.optional-dependencies]\na = ['kfp[kubernetes]==2']\nb = ['trl']\n"
    )
    assert requirements_script.requirements(project, ["a"]) == [
        "kfp[kubernetes]==2",
        "numpy>=2",
        "torch-other",
    ]
    with pytest.raises(SystemExit, match=r"no extra c; it has a, b"):
        requirements_script.requirements(project, ["c"])


def test_every_package_of_the_image_is_pinned(requirements_script: Any) -> None:
    import re

    wanted = requirements_script.requirements(ROOT / "pyproject.toml", ["pipelines"])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines}
    assert {re.match(r"[\w.-]+", each)[0].lower() for each in wanted} <= pinned  # type: ignore[index]


# --- a container's output ------------------------------------------------------------------------


class Silent:
    """A container whose service gives no answer about its output, the first `times` times."""

    def __init__(self, times: int, status: str) -> None:
        self.times, self.status = times, status

    def logs(self, stream: bool = False, follow: bool = False) -> Any:
        from requests.exceptions import ReadTimeout

        if not stream:
            return b"all of it"
        self.times -= 1
        if self.times >= 0:
            raise ReadTimeout
        return iter([b"piece ", b"by piece"])

    def reload(self) -> None: ...


@pytest.mark.parametrize(
    ("times", "status", "told"),
    [
        (0, "running", "piece by piece"),
        (2, "running", "piece by piece"),
        (1, "exited", "all of it"),
    ],
)
def test_a_service_that_is_silent_about_a_containers_output_is_asked_again(
    times: int, status: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.docker_runner import _print_logs

    _print_logs(Silent(times, status))
    assert capsys.readouterr().out == told
