"""register and promote: into the registry with a proof, then, if the gate agrees, champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ytrainer_core.config import PromoteConfig, RegisterConfig
from ytrainer_core.errors import CheckpointError
from ytrainer_core.registry import promote as promote_version
from ytrainer_core.registry import register_model
from ytrainer_core.stages.base import Stage, StageContext, StageResult


def register(config: RegisterConfig, context: StageContext) -> StageResult:
    """Register the trained model as challenger; a fresh process proves that it reloads."""
    folder = Path(context.required("model", "Give the trained model folder: --input model=DIR."))
    evaluation = _evaluation(context.path("evaluation"))
    tags = {}
    if evaluation:
        tags = {
            "ytrainer.gate": "passed" if evaluation["passed"] else "rejected",
            "ytrainer.evaluation_digest": evaluation["digest"],
            **{f"ytrainer.metric.{name}": str(v) for name, v in evaluation["tuned"].items()},
        }
    version = register_model(folder, config, run=context.run, tags=tags)
    return StageResult(
        metrics={"model_version": float(version.version), "max_delta": version.max_delta},
        values={"version": version.uri},
        summary={
            "version": version.uri,
            "proof": f"max |Δlogit| {version.max_delta:.2e} after reloading",
        },
    )


def promote(config: PromoteConfig, context: StageContext) -> StageResult:
    """Move the champion alias to a version that passed the gate."""
    uri = context.required("version", "Give the registered version: --input version=models:/NAME/1")
    promotion = promote_version(uri, tracking=config.tracking)
    previous = f"version {promotion.previous}" if promotion.previous else "none"
    return StageResult(
        metrics={"champion_version": float(promotion.version)},
        summary={
            "champion": f"models:/{promotion.name}@champion = version {promotion.version}",
            "before": previous,
        },
    )


def _evaluation(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: tree[name] for name in ("passed", "digest", "tuned")}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: is not an evaluation. Give the 'evaluation' output of the evaluate stage."
        ) from error


REGISTER = Stage("register", RegisterConfig, register, ("model", "evaluation"), {})
PROMOTE = Stage("promote", PromoteConfig, promote, ("version",), {})
