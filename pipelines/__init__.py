"""Pipelines: chains of components. PIPELINES names them, each imported when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

_MODULES = {"finetune": "pipelines.finetune", "retrain": "pipelines.retrain"}


class _Pipelines(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return getattr(importlib.import_module(_MODULES[name]), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


PIPELINES: Mapping[str, Any] = _Pipelines()
