"""Build the images with whatever tool is there, and push them: needs nothing but Python.

    python docker/build.py --target cpu --repository registry.example/team/ytrainer --push

The last line of a push is the reference with its digest, which
`ytrainer pipeline compile NAME --image REFERENCE` puts into a pipeline.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("docker", "podman", "buildah")
TARGETS = ("cpu", "gpu")
REPOSITORY = "ytrainer"
"""Without a registry: what components/__init__.py names."""

_SHA_CHARACTERS = 12
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Answer = Callable[[Sequence[str]], bool]


class BuildError(Exception):
    """An image could not be built or pushed: what is missing, and where to get it."""


def succeeds(command: Sequence[str]) -> bool:
    """Whether a command is there and ends well."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def choose_tool(answers: Answer = succeeds) -> str:
    """The first tool that works; a docker client without its daemon is none.

    answers: whether a command ends well. Raises BuildError where none does.
    """
    for tool in TOOLS:
        if answers([tool, "info"]):
            return tool
    raise BuildError(
        f"none of {', '.join(TOOLS)} works here. Install one (Debian: apt-get install podman), or "
        "start docker's daemon."
    )


def tags(repository: str, version: str, sha: str, target: str) -> list[str]:
    """Names of an image: its version, and its version with the commit; gpu says so at the end."""
    end = "" if target == "cpu" else f"-{target}"
    return [f"{repository}:{version}{end}", f"{repository}:{version}-{sha}{end}"]


def version(root: Path = ROOT) -> str:
    """The package's version, read without importing it."""
    text = (root / "ytrainer_core" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError(f"{root / 'ytrainer_core' / '__init__.py'} has no __version__.")
    return found[1]


def commit(root: Path = ROOT) -> str:
    """The checkout's commit, with -dirty behind it where files differ; 'unknown' outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        sha = git("rev-parse", "HEAD")[:_SHA_CHARACTERS]
        return f"{sha}-dirty" if git("status", "--porcelain") else sha
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def build_command(
    tool: str,
    target: str,
    names: Sequence[str],
    arguments: dict[str, str],
    pip_conf: Path | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that builds one target.

    names: every tag. arguments: build arguments. pip_conf: given to pip as a secret, so that no
    layer keeps it. extra: further words for the tool.
    """
    command = [tool, "build", "--target", target, "--file", "docker/Dockerfile"]
    if tool != "docker":
        command.append("--layers")
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name in names:
        command += ["--tag", name]
    if pip_conf is not None:
        command += ["--secret", f"id=pip,src={pip_conf}"]
    return [*command, *extra, "."]


def push(tool: str, name: str) -> str:
    """Push a tag; returns the reference with the digest that the registry gave it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        if tool == "docker":
            said = subprocess.run([tool, "push", name], capture_output=True, text=True, check=False)
            told = said.stdout
        else:
            command = [tool, "push", "--digestfile", str(file), name]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            told = file.read_text(encoding="utf-8") if file.exists() else ""
    found = _DIGEST.findall(told)
    if said.returncode != 0 or not found:
        raise BuildError(f"{name} could not be pushed: {said.stderr.strip() or told.strip()}")
    return with_digest(name, found[-1])


def with_digest(name: str, digest: str) -> str:
    """REPOSITORY@DIGEST for REPOSITORY:TAG; a registry's port is no tag."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}"


def main(words: Sequence[str] | None = None) -> int:
    """Build, and push if asked; the exit code is 1 where that failed."""
    options = _options(words)
    try:
        tool = options.tool or choose_tool()
        told = {"VERSION": version(), "GIT_SHA": commit()}
        if index := os.environ.get("TORCH_INDEX"):
            told["TORCH_INDEX"] = index
        told |= dict(each.split("=", 1) for each in options.build_arg)
        if options.push and options.repository == REPOSITORY:
            raise BuildError("say where to push to: --repository REGISTRY/NAME.")
        for target in options.target or TARGETS:
            names = tags(options.repository, told["VERSION"], told["GIT_SHA"], target)
            command = build_command(tool, target, names, told, options.pip_conf, options.extra)
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                raise BuildError(f"{tool} could not build {target}; its last lines say why.")
            print("\n".join(names))
            if options.push:
                print("\n".join({push(tool, name): None for name in names}))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--target", action="append", choices=TARGETS, default=[], help="cpu, gpu; both if none"
    )
    parser.add_argument("--repository", default=REPOSITORY, help="REGISTRY/NAME of the images")
    parser.add_argument("--push", action="store_true", help="push, and print names with digests")
    parser.add_argument("--tool", choices=TOOLS, help="instead of the first that works")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pip-conf", type=Path, help="pip.conf for the build, kept out of layers")
    parser.add_argument("--extra", action="append", default=[], help="one more word for the tool")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
