"""sft and cpt: train adapters or the full model on the corpus, and save what came out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ytrainer_core.cluster.own_pod import inherited_nodes, own_cluster
from ytrainer_core.cluster.spread import launch_on_nodes
from ytrainer_core.config import (
    CptConfig,
    KtoConfig,
    LaunchConfig,
    ModelConfig,
    PretrainConfig,
    SftConfig,
)
from ytrainer_core.data.corpus import Corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import ConfigError
from ytrainer_core.reports.train import TrainReport, write_train_report
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import (
    REPORT_TOKENS,
    base_of,
    corpus_for,
    record_lineage,
    require_answers,
    weight_curve,
)
from ytrainer_core.training import checkpoints
from ytrainer_core.training.checkpoints import Work
from ytrainer_core.training.job import Log, TrainResult
from ytrainer_core.training.launch import launch
from ytrainer_core.training.model import BaseReference, base_digest
from ytrainer_core.training.parents import parent_of
from ytrainer_core.training.remote_checkpoints import RemoteCheckpoints
from ytrainer_core.training.work import TrainingTask, perform, read_order

TuningConfig = SftConfig | KtoConfig | PretrainConfig
"""Configs of stages that train."""

ANOTHER_TIME = (
    "nothing was left to do: this very training has finished before, and its model is delivered "
    "again (train.resume=never trains it anew)"
)


def sft(config: SftConfig, context: StageContext) -> StageResult:
    """Load, tokenize, order, train, save."""
    return _tune("sft", config, context)


def cpt(config: CptConfig, context: StageContext) -> StageResult:
    """Continued pre-training: the same loop; raw text has labels on every token."""
    return _tune("cpt", config, context)


def _tune(stage: str, config: SftConfig, context: StageContext) -> StageResult:
    check_nodes(config.launch)
    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config, context, tokenizer)
    require_answers(corpus)
    record_lineage(corpus, context)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)  # once, for all processes
    order_file = context.path("order")
    base = base_reference(config.model, folder)
    work = Work.of(
        stage,
        config.model_dump(mode="json"),
        read_order(order_file, len(rows)) if order_file else None,
        corpus.manifest["sha256"],
        base.sha256,
    )
    return train_and_deliver(config, context, work, corpus, base, lambda root: folder)


def base_reference(config: ModelConfig, folder: Path) -> BaseReference:
    """How cards and checkpoints name the base model that lies in `folder`."""
    name = config.name_or_path
    return BaseReference(
        name_or_path=str(folder) if Path(name).is_dir() else name,
        revision=config.revision,
        sha256=base_digest(folder),
    )


def train_and_deliver(
    config: SftConfig | PretrainConfig,
    context: StageContext,
    work: Work,
    corpus: Corpus,
    base: BaseReference,
    base_folder: Callable[[Path], Path],
) -> StageResult:
    """Do the work unless it is done already, then put model and report where they belong.

    base_folder: makes or finds the base model's folder, given the work's own folder.
    """
    result, earlier = done_once(config, context, work, corpus, base, base_folder, _train)
    return report(config, context, result, earlier=earlier)


def done_once(
    config: TuningConfig,
    context: StageContext,
    work: Work,
    corpus: Corpus,
    base: BaseReference,
    base_folder: Callable[[Path], Path],
    do: Callable[[TrainingTask, LaunchConfig, Log], TrainResult],
    rows: Sequence[int] = (),
) -> tuple[TrainResult, bool]:
    """Do the work unless it is done already, and put the model where it belongs.

    rows: as TrainingTask. Returns the result, and whether it is that of an earlier time.
    """
    checkpoints.forget_deleted()
    with checkpoints.exclusive(checkpoints.checkpoint_root(work.key)) as root:
        remote = (
            RemoteCheckpoints.of(config.train, work.key) if config.train.checkpoint_to else None
        )
        if config.train.resume == "never":
            checkpoints.start_anew(root)
            if remote:
                remote.forget()
        done = checkpoints.finished(root)
        if done is None:
            if remote:
                remote.fetch(root)
            refuse_changed(config, work, root)
            checkpoints.describe(root, work)
            task = TrainingTask(
                stage=work.stage,
                config=config.model_dump(mode="json"),
                corpus=str(corpus.folder),
                data_sha256=work.data_sha256,
                order_file=str(context.path("order") or ""),
                base=str(base_folder(root)),
                base_reference=dataclasses.asdict(base),
                root=str(root),
                run_id=context.run.run_id,
                parent=dataclasses.asdict(parent_of(config.model)),
                rows=list(rows),
            )
            result = do(task, config.launch, context.log)
            checkpoints.mark_finished(root, dataclasses.asdict(result))
        else:
            result = TrainResult(**done["result"])
        checkpoints.deliver(root, context.outputs["model"], context.outputs["epochs"])
    return result, done is not None


def check_nodes(config: LaunchConfig) -> None:
    """Refuse several machines where there can be none, before anything is prepared for them."""
    if config.nodes > 1:
        inherited_nodes(*own_cluster(config), config)


def _train(task: TrainingTask, config: LaunchConfig, log: Log) -> TrainResult:
    """Do the work in this process, in several of this machine, or on several machines."""
    if config.nodes > 1:
        api, pod = own_cluster(config)
        nodes = inherited_nodes(api, pod, config)
        return launch_on_nodes(task, nodes, log, api=api, pod=pod, say=_say)
    if config.processes == 1 and config.engine == "ddp":
        return perform(task, log)
    return launch(task, config, log)


def _say(line: str) -> None:
    """What the nodes do; this process' own output may be read by a machine."""
    print(line, file=sys.stderr, flush=True)


def refuse_changed(config: TuningConfig, work: Work, root: Path) -> None:
    """Say so where a cut-off training differs from this one; with resume=always, stop.

    Raises ConfigError that names what differs.
    """
    if config.train.resume == "never" or checkpoints.newest_complete(root):
        return
    relative = checkpoints.unfinished_relative(work)
    if relative is None:
        return
    folder, differences = relative
    listed = "; ".join(differences)
    if config.train.resume == "always":
        raise ConfigError(
            f"{folder}: the unfinished training there is not continued, because this one differs: "
            f"{listed}. Undo the change to continue it, or set train.resume=auto (or never) to "
            "start anew."
        )
    print(
        f"note: starting anew; an unfinished training differs in {listed}. Undo the change to "
        "continue that one.",
        file=sys.stderr,
    )


def report(
    config: SftConfig | PretrainConfig,
    context: StageContext,
    result: TrainResult,
    *,
    earlier: bool = False,
) -> StageResult:
    """Report, metrics and summary of a finished training."""
    losses, loss = losses_told(result)
    summary = {
        "objective": config.objective.name,
        "optimizer steps": steps_told(result),
        "training loss": loss,
        **dict(result.throughput),
    }
    if earlier:
        summary["resume"] = ANOTHER_TIME
    stride = max(1, max(len(result.nll_first), len(result.nll_last)) // REPORT_TOKENS)
    write_train_report(
        context.outputs["report"],
        TrainReport(
            title="Training",
            settings={
                "objective": config.objective.name,
                "learning rate": f"{config.optim.learning_rate:g} ({config.optim.lr_scheduler})",
                "epochs": f"{config.train.num_train_epochs:g}",
                "batching": config.train.batching,
                "seed": str(config.seed),
            },
            history=result.history,
            summary=summary,
            nll_before=result.nll_first[::stride],
            nll_after=result.nll_last[::stride],
            weight_curve=weight_curve(config.objective.nlirg)
            if config.objective.name == "nlirg"
            else [],
        ),
    )
    return StageResult(
        metrics={
            "optimizer_steps": float(result.steps),
            "trainable_parameters": float(result.trainable_parameters),
            "target_tokens_seen": float(result.target_tokens),
            "train_seconds": result.seconds,
        }
        | ({"final_train_loss": losses[-1]} if losses else {}),
        summary=summary,
    )


def losses_told(result: TrainResult) -> tuple[list[float], str]:
    """(the logged training losses, the first and the last of them in words)."""
    losses = [row["loss"] for row in result.history if "loss" in row]
    told = f"{losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "not logged in so few steps"
    return losses, told


def steps_told(result: TrainResult) -> str:
    """How many optimizer steps were made, in words."""
    steps = f"{result.steps:,}"
    if result.resumed_from:
        steps += f" (continued from {result.resumed_from:,})"
    return steps + (" (stopped early)" if result.stopped_early else "")


_OUTPUTS: dict[str, Any] = {"model": "model", "report": "html", "epochs": "artifact"}

SFT = Stage("sft", SftConfig, sft, ("dataset", "order"), _OUTPUTS)
CPT = Stage("cpt", CptConfig, cpt, ("dataset", "order"), _OUTPUTS)
