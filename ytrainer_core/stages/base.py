"""What a stage is: a name, a config model, named inputs and outputs, one function.

The command line, the Kubeflow components and the service are all derived from
this declaration, so that a stage is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ytrainer_core.config import StageConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.tracking import Run

OutputKind = Literal["dataset", "model", "artifact", "html"]


@dataclass(frozen=True)
class StageResult:
    """What a stage tells besides its output files.

    metrics: numbers for MLflow and the Kubeflow metrics table.
    values: output parameters, e.g. {'passed': True}.
    summary: lines for a person, name -> text.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """Where a running stage reads, writes and logs.

    inputs: name -> path or URI, only those that were given. outputs: name -> path that
    the stage must create (atomically).
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, Path]
    run: Run

    def path(self, name: str) -> Path | None:
        """Path of an input, or None where it was not given."""
        return Path(self.inputs[name]) if name in self.inputs else None

    def required(self, name: str, remedy: str) -> str:
        """Value of an input that the stage cannot do without."""
        if name not in self.inputs:
            raise ConfigError(f"input '{name}' is missing. {remedy}")
        return self.inputs[name]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Live metrics of a loop."""
        self.run.log(metrics, step)


@dataclass(frozen=True)
class Stage:
    """Declaration of one stage. outputs: name -> kind of artifact."""

    name: str
    config: type[StageConfig]
    function: Callable[[Any, StageContext], StageResult]
    inputs: tuple[str, ...]
    outputs: Mapping[str, OutputKind]

    @property
    def description(self) -> str:
        """First line of the config model's docstring."""
        return (self.config.__doc__ or "").strip().splitlines()[0]
