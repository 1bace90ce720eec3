"""sft and cpt: train adapters or the full model on the corpus, and save what came out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ytrainer_core import __version__
from ytrainer_core.config import CptConfig, PretrainConfig, SftConfig
from ytrainer_core.data.mixing import with_replay
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import atomic_folder
from ytrainer_core.reports.train import TrainReport, write_train_report
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import (
    REPORT_TOKENS,
    base_of,
    corpus_for,
    record_lineage,
    weight_curve,
)
from ytrainer_core.training.checkpoints import checkpoint_root, exclusive, training_key
from ytrainer_core.training.engine import TrainJob, TrainResult, train
from ytrainer_core.training.model import (
    PROBE_ROWS,
    BaseReference,
    ModelCard,
    add_lora,
    base_digest,
    compute_dtype,
    load_model,
    probe_batch,
    save_trained,
)


def sft(config: SftConfig, context: StageContext) -> StageResult:
    """Load, tokenize, order, train, save."""
    import torch

    folder, tokenizer = base_of(config.model)
    corpus = corpus_for(config.data, context, tokenizer, config.seed)
    record_lineage(corpus, context)
    rows: Sequence[Any] = tokenize_dataset(corpus.train, tokenizer, config.data)
    held_out = tokenize_dataset(corpus.validation, tokenizer, config.data)
    order = read_order(context.path("order"), len(rows))
    if order is not None:
        rows = [rows[i] for i in order]
    if len(corpus.replay):
        replay = tokenize_dataset(corpus.replay, tokenizer, config.data)
        rows = with_replay(rows, replay, config.data.replay_ratio, config.seed)
    base = BaseReference(
        name_or_path=str(folder)
        if Path(config.model.name_or_path).is_dir()
        else config.model.name_or_path,
        revision=config.model.revision,
        sha256=base_digest(folder),
    )
    dtype = compute_dtype(config.model.dtype)
    # full training keeps float32 weights and computes in dtype; frozen ones may be dtype
    model = load_model(folder, config.model, dtype=dtype if config.lora.rank else torch.float32)
    if config.lora.rank:
        torch.manual_seed(config.seed)  # the adapters' first values
        model = add_lora(model, config.lora)
    return train_and_save(
        config,
        context,
        model,
        tokenizer,
        rows,
        eval_rows=held_out,
        kind="adapter" if config.lora.rank else "full",
        base=base,
        data_sha256=corpus.manifest["sha256"],
        order=order,
    )


def train_and_save(
    config: SftConfig | PretrainConfig,
    context: StageContext,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Any],
    *,
    eval_rows: Sequence[Any],
    kind: str,
    base: BaseReference,
    data_sha256: str,
    order: Sequence[int] | None = None,
) -> StageResult:
    """Train under this work's checkpoints, write the model folder, then drop the checkpoints.

    rows, eval_rows: tokenized. kind: adapter or full. order: the curriculum that `rows` is in.
    """
    resolved = config.model_dump(mode="json")
    key = training_key(resolved, order, data_sha256, base.sha256)
    job = TrainJob(
        data=config.data,
        objective=config.objective,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        dtype=compute_dtype(config.model.dtype),
        ordered=order is not None or config.train.batching == "token_groups",
    )
    with exclusive(checkpoint_root(key)) as checkpoints:
        result = train(
            model,
            tokenizer,
            rows,
            job,
            checkpoints=checkpoints,
            log=context.log,
            eval_rows=eval_rows,
        )
        card = ModelCard(
            kind=kind,
            base=base,
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            data_sha256=data_sha256,
            run_id=context.run.run_id,
            ytrainer_version=__version__,
            config=resolved,
        )
        first = [rows[i]["input_ids"] for i in range(min(PROBE_ROWS, len(rows)))]
        with atomic_folder(context.outputs["model"]) as scratch:
            save_trained(model, tokenizer, scratch, card, probe_batch(first, len(tokenizer)))
        shutil.rmtree(checkpoints)
    return finish(config, context, model, result)


def finish(
    config: SftConfig | PretrainConfig, context: StageContext, model: Any, result: TrainResult
) -> StageResult:
    """Report and summary of a finished training."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    losses = [row["loss"] for row in result.history if "loss" in row]
    loss = f"{losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "not logged in so few steps"
    summary = {
        "objective": config.objective.name,
        "trainable parameters": f"{trainable:,}",
        "optimizer steps": f"{result.steps:,}"
        + (f" (continued from {result.resumed_from:,})" if result.resumed_from else ""),
        "training loss": loss,
        "seconds": f"{result.seconds:.1f}",
    }
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
            "trainable_parameters": float(trainable),
            "target_tokens_seen": float(result.target_tokens),
            "train_seconds": result.seconds,
        }
        | ({"final_train_loss": losses[-1]} if losses else {}),
        summary=summary,
    )


def read_order(path: Path | None, rows: int) -> list[int] | None:
    """Training order from an order file; None where the trainer shall shuffle."""
    if path is None:
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        mode, order = tree["mode"], tree["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: is not an order file. Give the 'order' output of the order stage."
        ) from error
    if sorted(order) != list(range(rows)):
        raise ConfigError(
            f"{path}: orders {len(order)} rows, the corpus has {rows}. Give the order and the "
            "dataset of one pipeline run."
        )
    return None if mode == "none" else order


def cpt(config: CptConfig, context: StageContext) -> StageResult:
    """Continued pre-training: the same loop; raw text has labels on every token."""
    return sft(config, context)


SFT = Stage("sft", SftConfig, sft, ("dataset", "order"), {"model": "model", "report": "html"})
CPT = dataclasses.replace(SFT, name="cpt", config=CptConfig, function=cpt)
