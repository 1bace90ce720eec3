"""Compile a pipeline to the YAML that a cluster runs: same source, same bytes."""

import os
import tempfile
import warnings
from pathlib import Path

from pipelines import PIPELINES


def compile_to(name: str, path: Path) -> None:
    """Write a pipeline's YAML atomically."""
    from kfp import compiler

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile.") as scratch:
        temporary = Path(scratch) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiler.Compiler().compile(PIPELINES[name], str(temporary))
        os.replace(temporary, path)
