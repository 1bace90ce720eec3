"""Compile a pipeline to the YAML that a cluster runs: same source, same bytes."""

import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import yaml

from components import IMAGE
from pipelines import PIPELINES
from ytrainer_core.errors import ConfigError

_REFERENCE = re.compile(r"[a-z0-9][\w.:/-]*(?P<digest>@sha256:[0-9a-f]{64})?")
_DIGEST_VARIABLE = "YTRAINER_IMAGE_DIGEST"


def compile_to(name: str, path: Path, image: str = "") -> None:
    """Write a pipeline's YAML atomically.

    image: what the steps run in instead of the package's own tag, best with its digest: a tag can
    be moved, and KFP's cache does not look behind one. Raises ConfigError where it is no reference.
    """
    from kfp import compiler

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile.") as scratch:
        temporary = Path(scratch) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiler.Compiler().compile(PIPELINES[name], str(temporary))
        if image:
            text = with_image(temporary.read_text(encoding="utf-8"), image)
            temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def with_image(text: str, image: str) -> str:
    """A compiled pipeline whose steps run in another image, and know its digest if it has one.

    Comments at the head, which tell a reader of its parameters, stay. Raises ConfigError.
    """
    reference = _REFERENCE.fullmatch(image)
    if reference is None:
        raise ConfigError(
            f"--image: '{image}' is no reference of an image. Write REGISTRY/NAME@sha256:DIGEST, "
            "as `make images IMAGES=--push` prints it, or REGISTRY/NAME:TAG."
        )
    head = "".join(re.findall(r"\A(?:#.*\n|\n)*", text)[:1])
    pipeline, *platforms = yaml.safe_load_all(text)
    for executor in pipeline["deploymentSpec"]["executors"].values():
        container = executor.get("container", {})
        if container.get("image") == IMAGE:
            container["image"] = image
            if reference["digest"]:
                _set_variable(container, _DIGEST_VARIABLE, reference["digest"][1:])
    return head + yaml.safe_dump_all([pipeline, *platforms], sort_keys=True)


def _set_variable(container: dict[str, Any], name: str, value: str) -> None:
    """Set an environment variable of a container, whatever it was before."""
    others = [each for each in container.get("env", []) if each["name"] != name]
    container["env"] = [*others, {"name": name, "value": value}]
