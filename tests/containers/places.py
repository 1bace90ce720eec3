"""What the tests of containers stand on: the built image, and the servers that its steps reach."""

from __future__ import annotations

from dataclasses import dataclass

from engine import Engine

BUCKET = "runs"


@dataclass(frozen=True)
class Image:
    """The cpu image. name: its reference, in full."""

    name: str
    engine: Engine


@dataclass(frozen=True)
class Servers:
    """An MLflow server that keeps its files in an S3 server's bucket. variables: to reach both."""

    mlflow: str
    variables: dict[str, str]


FIGURES: list[str] = []
"""What was measured, for the end of pytest's output."""


def tell(figure: str) -> None:
    """Keep a figure for the end."""
    FIGURES.append(figure)
