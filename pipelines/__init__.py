"""Pipelines: chains of components. PIPELINES names them, each traced when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pipelines.configs import PIPELINE_CONFIGS


def definition_of(name: str) -> Any:
    """The Definition of a pipeline: the function of that name in the module of that name."""
    from pipelines.definition import Definition

    return Definition(name, getattr(importlib.import_module(f"pipelines.{name}"), name))


class _Pipelines(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        if name not in PIPELINE_CONFIGS:
            raise KeyError(name)
        return _traced(name)

    def __iter__(self) -> Iterator[str]:
        return iter(PIPELINE_CONFIGS)

    def __len__(self) -> int:
        return len(PIPELINE_CONFIGS)


@cache
def _traced(name: str) -> Any:
    return definition_of(name).trace()


PIPELINES: Mapping[str, Any] = _Pipelines()
"""Name -> kfp's pipeline, as it runs on this machine."""
