"""register and promote: into the registry with a proof, then, if the gate agrees, champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ytrainer_core.config import PromoteConfig, RegisterConfig
from ytrainer_core.errors import CheckpointError
from ytrainer_core.registry import Version, register_model
from ytrainer_core.registry import promote as promote_version
from ytrainer_core.registry.versions import (
    EVALUATION_TAG,
    GATE_TAG,
    JUDGED_TAG,
    METRIC_PREFIX,
    NO_CHAMPION,
    REASONS_TAG,
)
from ytrainer_core.stages.base import Stage, StageContext, StageResult

_REASONS_CHARACTERS = 4500
"""Below the least of MLflow's limits on a tag over its stores, 5000."""


def register(config: RegisterConfig, context: StageContext) -> StageResult:
    """Register the trained model as challenger; a fresh process proves that it reloads."""
    folder = Path(context.required("model", "Give the trained model folder: --input model=DIR."))
    tags = _verdict_tags(_evaluation(context.path("evaluation")))
    version = register_model(folder, config, run=context.run, tags=tags)
    return StageResult(
        metrics={"model_version": float(version.version), "max_delta": version.max_delta},
        values={"version": version.uri},
        summary={
            "version": version.uri + ("" if version.is_new else " (was registered before)"),
            "proof": f"max |Δlogit| {version.max_delta:.2e} after reloading",
            **_published(config, version, tags),
        },
    )


def _verdict_tags(evaluation: dict[str, Any]) -> dict[str, str]:
    """What the gate said, against whom, and what was measured; nothing without an evaluation."""
    if not evaluation:
        return {}
    return {
        GATE_TAG: "passed" if evaluation["passed"] else "rejected",
        EVALUATION_TAG: evaluation["digest"],
        REASONS_TAG: "\n".join(evaluation["reasons"])[:_REASONS_CHARACTERS],
        JUDGED_TAG: evaluation["champion"] or NO_CHAMPION,
        **{f"{METRIC_PREFIX}{name}": str(v) for name, v in evaluation["metrics"].items()},
    }


def _published(config: RegisterConfig, version: Version, tags: dict[str, str]) -> dict[str, str]:
    if not config.registry.publish_to:
        return {}
    if tags.get(GATE_TAG) == "rejected":
        return {"published": "no, because the gate rejected it"}
    return {"published": version.published}


def promote(config: PromoteConfig, context: StageContext) -> StageResult:
    """Move the champion alias to a version that passed the gate."""
    uri = context.required("version", "Give the registered version: --input version=models:/NAME/1")
    promotion = promote_version(uri, tracking=config.tracking)
    champion = f"models:/{promotion.name}@champion = version {promotion.version}"
    return StageResult(
        metrics={"champion_version": float(promotion.version)},
        summary={
            "champion": champion + ("" if promotion.changed else " (was so already)"),
            "before": f"version {promotion.previous}" if promotion.previous else "none",
        },
    )


def _evaluation(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        challenger = tree["models"]["challenger"]["metrics"]
        return {
            "passed": tree["passed"],
            "digest": tree["digest"],
            "champion": tree["champion"],
            "metrics": {name: found["value"] for name, found in challenger.items()},
            "reasons": [
                f"{'+' if reason['passed'] else '-'} {reason['text']}" for reason in tree["reasons"]
            ],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is not an evaluation. Give the 'evaluation' output of the evaluate stage."
        ) from error


REGISTER = Stage("register", RegisterConfig, register, ("model", "evaluation"), {})
PROMOTE = Stage("promote", PromoteConfig, promote, ("version",), {})
