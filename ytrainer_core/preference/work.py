"""One piece of preference tuning from beginning to end: load, tokenize, deal, train, save."""

from __future__ import annotations

import sys
from pathlib import Path

from ytrainer_core.config import KtoConfig, ObjectiveConfig, narrow
from ytrainer_core.data.corpus import load_corpus
from ytrainer_core.errors import DataError
from ytrainer_core.files import sha256_json
from ytrainer_core.preference.batches import LEAST_ROWS, mixed_batches, pair_batches
from ytrainer_core.preference.columns import Batched, batched
from ytrainer_core.preference.engine import train_preference
from ytrainer_core.preference.kto import Preference
from ytrainer_core.preference.rows import Rows, preference_rows, require_both
from ytrainer_core.preference.weights import class_weights
from ytrainer_core.training.checkpoints import EPOCHS_NAME, MODEL_NAME
from ytrainer_core.training.job import Log, TrainJob, TrainResult
from ytrainer_core.training.model import PROBE_ROWS, compute_dtype, load_tokenizer
from ytrainer_core.training.work import TrainingTask, load_for_training, model_saver


def perform(task: TrainingTask, log: Log) -> TrainResult:
    """Do the work; the model then lies in root/model, kept epochs in root/epochs/epoch-N.

    Raises DataError where the rows cannot teach a preference, and what `train_preference` raises.
    """
    config = narrow(KtoConfig, task.config)
    root, base = Path(task.root), Path(task.base)
    tokenizer = load_tokenizer(base, trust_remote_code=config.model.trust_remote_code)
    corpus = load_corpus(Path(task.corpus))
    pairs = config.preference.loss == "dpo"
    rows = preference_rows(corpus.train, tokenizer, config.data, pairs=pairs)
    told = require_both(rows, pairs=pairs)
    train = _dealt(rows, config, distinct=True)
    held_out, without = _held_out(
        preference_rows(corpus.validation, tokenizer, config.data, pairs=pairs), config
    )
    told += without
    for line in told:
        print(f"note: {line}.", file=sys.stderr)
    preference = preference_of(config, task, rows)
    model, kind = load_for_training(config, base)
    probe = [{"input_ids": [*r.prompt_ids, *r.completion_ids]} for r in rows.rows[:PROBE_ROWS]]
    save_to = model_saver(task, model, tokenizer, kind, probe)
    return train_preference(
        model,
        tokenizer,
        train,
        held_out,
        training_job(config),
        preference,
        checkpoints=root,
        log=log,
        keep_epoch=lambda epoch: save_to(root / EPOCHS_NAME / f"epoch-{epoch}"),
        save=lambda: save_to(root / MODEL_NAME),
        told=_summary(rows, preference, told),
    )


def preference_of(config: KtoConfig, task: TrainingTask, rows: Rows) -> Preference:
    """Weights of both kinds, and where the reference comes from.

    auto switches off an adapter that begins as nothing; an adapter that is continued, one that
    holds part of the base (PiSSA), and a model trained whole are asked before the first step.
    """
    asked = config.preference.reference
    new = config.lora.rank and config.lora.init != "pissa" and not config.model.init_from
    identity = [task.base_reference["sha256"], task.parent.get("sha256", "")]
    return Preference(
        config=config.preference,
        weights=class_weights(config.preference, rows.liked, rows.disliked),
        precomputed=asked == "precomputed" or (asked == "auto" and not new),
        reference=sha256_json([*identity, config.model.dtype, config.model.quantization]),
    )


def training_job(config: KtoConfig) -> TrainJob:
    """The job of a stage's config; its objective is not used."""
    return TrainJob(
        data=config.data,
        objective=ObjectiveConfig(),
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        dtype=compute_dtype(config.model.dtype),
        ordered=True,
        attn_implementation=config.model.attn_implementation,
        lora=config.lora,
    )


def _dealt(rows: Rows, config: KtoConfig, *, distinct: bool) -> Batched:
    preference = config.preference
    if preference.loss == "dpo":
        batches = pair_batches(rows.rows, preference.batch_size, config.seed)
        return batched(rows.rows, batches, kl=False)
    kto = preference.loss == "kto"
    batches = mixed_batches(
        rows.rows, preference.batch_size, config.seed, distinct=distinct and kto
    )
    return batched(rows.rows, batches, kl=kto)


def _held_out(rows: Rows, config: KtoConfig) -> tuple[Batched | None, list[str]]:
    """(the held-out rows in batches, what to tell where there are too few).

    Raises DataError where there are too few and evaluations are asked for.
    """
    if rows.liked and rows.disliked and len(rows.rows) >= LEAST_ROWS:
        return _dealt(rows, config, distinct=False), []
    few = f"of the held-out rows {rows.liked} are liked and {rows.disliked} disliked"
    if config.train.eval_steps:
        raise DataError(
            f"train.eval_steps={config.train.eval_steps}: {few}, and rewards are compared between "
            "both. Name rows of both kinds in data.validation, or set train.eval_steps=0."
        )
    return None, [f"{few}, so no held-out accuracy is measured"]


def _summary(rows: Rows, preference: Preference, told: list[str]) -> list[tuple[str, str]]:
    """Lines for a person: how many rows, how they weigh, and what to know about them."""
    desirable, undesirable = preference.weights
    lines = [("rows", f"{rows.liked:,} liked, {rows.disliked:,} disliked")]
    if preference.config.loss != "dpo":
        lines.append(("weights", f"{desirable:.3g} liked, {undesirable:.3g} disliked"))
    source = "computed beforehand" if preference.precomputed else "the adapter switched off"
    lines.append(("reference", source))
    return [*lines, ("note", "\n".join(told))] if told else lines
