"""Knobs of delivery: experiment tracking and the model registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ytrainer_core.config.base import Pairs, Section


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str = ""
    """MLflow tracking URI; empty takes MLFLOW_TRACKING_URI, else the local sqlite file."""

    experiment: Annotated[str, Field(min_length=1)] = "ytrainer"
    """MLflow experiment."""

    enabled: bool = True
    """Record runs in MLflow."""


class RegistryConfig(Section):
    """Under which name a model is registered."""

    name: Annotated[str, Field(pattern=r"^[^:/%\"']+$")] = "ytrainer-model"
    """Registered model name."""

    form: Literal["auto", "adapter", "full"] = "auto"
    """What is registered: the adapter alone, the merged full model, or what was trained."""

    tags: Pairs = ()
    """Tags that the version gets besides its own, such as 'team=support'."""

    publish_to: str = ""
    """Folder or s3:// prefix that the version's files are also copied to, below NAME/VERSION;
    nothing there is ever overwritten."""
