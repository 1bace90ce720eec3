"""kto: tune a model on liked and disliked answers, and save what came out as sft does."""

from __future__ import annotations

import importlib.util
import sys

from ytrainer_core.config import KtoConfig, LaunchConfig, TrainConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.reports.train import TrainReport, write_train_report
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import base_of, corpus_for, record_lineage
from ytrainer_core.stages.train import (
    ANOTHER_TIME,
    base_reference,
    done_once,
    losses_told,
    steps_told,
)
from ytrainer_core.training.checkpoints import Work
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.work import TrainingTask

MOST_FOR_EVERY_WEIGHT = 5e-6
"""Learning rate above which training every weight is known to break models (TRL's KTO guide)."""

_OF_TOKEN_TRAINING = (
    *("batching", "pack_length", "token_group_size"),
    *("per_device_batch_size", "micro_batch_tokens"),
)
"""Knobs of the train section that have no effect here; preference.batch_size makes the batches."""

_MEASURED = ("loss", "accuracy", "rewards/chosen", "rewards/rejected", "rewards/margins", "kl")
"""What is told of the held-out rows after the last step."""


def kto(config: KtoConfig, context: StageContext) -> StageResult:
    """Find base and corpus, tune unless it is done already, report."""
    _require_trl()
    for line in _without_effect(config):
        print(f"note: {line}.", file=sys.stderr)
    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config, context, tokenizer)
    record_lineage(corpus, context)
    base = base_reference(config.model, folder)
    resolved = config.model_dump(mode="json")
    work = Work.of("kto", resolved, None, corpus.manifest["sha256"], base.sha256)
    result, earlier = done_once(config, context, work, corpus, base, lambda root: folder, _train)
    return _report(config, context, result, earlier=earlier)


def _require_trl() -> None:
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("kto needs TRL, which is not installed. pip install 'ytrainer[kto]'.")


def _train(task: TrainingTask, launch: LaunchConfig, log: Log) -> TrainResult:
    from ytrainer_core.preference.work import perform

    return perform(task, log)


def _without_effect(config: KtoConfig) -> list[str]:
    """What was said in the config and does nothing, or harm."""
    usual = TrainConfig()
    said = [
        f"train.{name} has no effect here; preference.batch_size makes the batches"
        for name in _OF_TOKEN_TRAINING
        if getattr(config.train, name) != getattr(usual, name)
    ]
    for name in ("replay", "earlier"):
        if getattr(config.data, name):
            said.append(f"data.{name} has no effect here, since its rows say nothing of liking")
    if not config.lora.rank and config.optim.learning_rate > MOST_FOR_EVERY_WEIGHT:
        said.append(
            f"optim.learning_rate={config.optim.learning_rate:g} is much where every weight is "
            f"trained; 5e-7 to {MOST_FOR_EVERY_WEIGHT:g} is usual, 1e-6 a good start"
        )
    return said


def _report(
    config: KtoConfig, context: StageContext, result: TrainResult, *, earlier: bool
) -> StageResult:
    losses, loss = losses_told(result)
    measured = _held_out(result)
    summary = {
        "loss": config.preference.loss,
        "optimizer steps": steps_told(result),
        "training loss": loss,
        **dict(result.throughput),
    }
    if measured:
        summary["held-out accuracy"] = f"{measured['accuracy']:.1%}"
        summary["held-out margin"] = f"{measured['rewards/margins']:.3f}"
    if earlier:
        summary["resume"] = ANOTHER_TIME
    write_train_report(
        context.outputs["report"],
        TrainReport(
            title="Preference tuning",
            settings={
                "loss": config.preference.loss,
                "beta": f"{config.preference.beta:g}",
                "rows per batch": str(config.preference.batch_size),
                "token weights": config.preference.token_weighting,
                "learning rate": f"{config.optim.learning_rate:g} ({config.optim.lr_scheduler})",
                "epochs": f"{config.train.num_train_epochs:g}",
                "seed": str(config.seed),
            },
            history=result.history,
            summary=summary,
            loss_unit="loss",
        ),
    )
    return StageResult(
        metrics={
            "optimizer_steps": float(result.steps),
            "trainable_parameters": float(result.trainable_parameters),
            "target_tokens_seen": float(result.target_tokens),
            "train_seconds": result.seconds,
        }
        | ({"final_train_loss": losses[-1]} if losses else {})
        | {f"held_out_{name.replace('/', '_')}": value for name, value in measured.items()},
        summary=summary,
    )


def _held_out(result: TrainResult) -> dict[str, float]:
    """The last measurement of the held-out rows; empty where there was none."""
    rows = [row for row in result.history if "eval_accuracy" in row]
    if not rows:
        return {}
    return {name: rows[-1][f"eval_{name}"] for name in _MEASURED if f"eval_{name}" in rows[-1]}


STAGE = Stage(
    "kto",
    KtoConfig,
    kto,
    ("dataset",),
    {"model": "model", "report": "html", "epochs": "artifact"},
)
