"""Compile a pipeline to the YAML that a cluster runs: same source, same bytes."""

import os
import tempfile
import warnings
from pathlib import Path

from pipelines import definition_of
from pipelines.placement import Placement
from ytrainer_core.config import ClusterConfig


def compile_to(name: str, path: Path, placement: Placement | None = None) -> None:
    """Write a pipeline's YAML atomically.

    placement: where the steps run; what a run may say otherwise has its default from there.
    """
    from kfp import compiler

    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline = definition_of(name).trace(placement or Placement(ClusterConfig()))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile.") as scratch:
        temporary = Path(scratch) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiler.Compiler().compile(pipeline, str(temporary))
        os.replace(temporary, path)
