"""Submit a pipeline to a Kubeflow cluster with the config of a local run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import PIPELINES
from ytrainer_core.config import FinetuneConfig, narrow
from ytrainer_core.config.headline import split_headline
from ytrainer_core.errors import ConfigError, YTrainerError


def submit(name: str, tree: Mapping[str, Any], path: Path | None, host: str) -> str:
    """Create one run and return its URL. Raises ConfigError before anything is sent."""
    import kfp

    config = narrow(FinetuneConfig, tree, path)
    if config.model.name_or_path.startswith("demo:"):
        raise ConfigError(
            "model.name_or_path: demo:base exists only where it was made. Name a hub id or a "
            "folder that the cluster's pods can read."
        )
    headline, rest = split_headline(FinetuneConfig, tree)
    try:
        client = kfp.Client(host=host)
        run = client.create_run_from_pipeline_func(
            PIPELINES[name], arguments={**headline, "config": rest}, enable_caching=False
        )
    except Exception as error:  # the client raises whatever its transport does
        raise YTrainerError(
            f"{host}: the run could not be submitted ({type(error).__name__}: {error}). Check the "
            "URL and the token, and that the API answers."
        ) from error
    return f"{host.rstrip('/')}/#/runs/details/{run.run_id}"
