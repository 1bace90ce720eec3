"""One piece of training work from beginning to end: load, tokenize, order, train, save.

The same function runs in this process and in each of several that torchrun starts; what
it needs is a plain record, so that it can be handed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ytrainer_core import __version__
from ytrainer_core.config import (
    STAGE_CONFIGS,
    KtoConfig,
    LoraConfig,
    PretrainConfig,
    SftConfig,
    narrow,
)
from ytrainer_core.data.corpus import Corpus, load_corpus
from ytrainer_core.data.mixing import with_replay
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import atomic_folder
from ytrainer_core.training.checkpoints import EPOCHS_NAME, MODEL_NAME
from ytrainer_core.training.deepspeed import (
    deepspeed_settings,
    gathered_state,
    is_split,
    split_while_loading,
)
from ytrainer_core.training.engine import train
from ytrainer_core.training.job import Log, TrainJob, TrainResult
from ytrainer_core.training.model import (
    CARD_NAME,
    PROBE_ROWS,
    BaseReference,
    ModelCard,
    add_lora,
    base_digest,
    compute_dtype,
    continue_adapter,
    load_model,
    load_tokenizer,
    load_trained,
    locate,
    probe_batch,
    probe_logits,
    read_card,
    save_trained,
)


@dataclass(frozen=True)
class TrainingTask:
    """A piece of training work to be done.

    stage, config: which and how, the config resolved. corpus: the prepared corpus' folder.
    order_file: the curriculum, empty without. base: the base model's folder; base_reference:
    how its card names it (empty for a model from scratch). root: the work's own folder, where
    checkpoints lie and the model will. run_id: the tracking run, for the card. parent: uri and
    sha256 of the trained model that this one goes on from, empty without. rows: numbers of the
    corpus' rows that are trained; all where empty.
    """

    stage: str
    config: dict[str, Any]
    corpus: str
    data_sha256: str
    order_file: str
    base: str
    base_reference: dict[str, str]
    root: str
    run_id: str
    parent: dict[str, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)


def training_config(task: TrainingTask) -> SftConfig | PretrainConfig:
    """The task's config as its stage declares it."""
    config = narrow(STAGE_CONFIGS[task.stage], task.config)
    assert isinstance(config, SftConfig | PretrainConfig)
    return config


def perform(task: TrainingTask, log: Log) -> TrainResult:
    """Do the work; the model then lies in root/model, kept epochs in root/epochs/epoch-N.

    Where this is one of several processes of torch.distributed, all of them train one model
    and the first one writes.
    """
    config = training_config(task)
    root, base = Path(task.root), Path(task.base)
    tokenizer = load_tokenizer(base, trust_remote_code=config.model.trust_remote_code)
    corpus = load_corpus(Path(task.corpus))
    rows: Any = tokenize_dataset(corpus.train, tokenizer, config.data)
    if task.rows:
        rows = rows.select(task.rows)
    curriculum = read_order(Path(task.order_file), len(rows)) if task.order_file else None
    if curriculum is not None:
        rows = rows.select(curriculum)
    rows = with_replayed(rows, corpus, tokenizer, config)
    held_out = tokenize_dataset(corpus.validation, tokenizer, config.data)
    job = training_job(config, ordered=curriculum is not None)
    with split_while_loading(job.deepspeed, job.dtype):
        model, kind = load_for_training(config, base)
    teacher = load_teacher(config)

    save_to = model_saver(task, model, tokenizer, kind, rows)
    return train(
        model,
        tokenizer,
        rows,
        job,
        checkpoints=root,
        log=log,
        eval_rows=held_out,
        teacher=teacher,
        keep_epoch=lambda epoch: save_to(root / EPOCHS_NAME / f"epoch-{epoch}"),
        save=lambda: save_to(root / MODEL_NAME),
    )


def model_saver(
    task: TrainingTask, model: Any, tokenizer: Any, kind: str, rows: Any
) -> Callable[[Path], None]:
    """A function that writes the model as it is then, with its card and probe, into a folder.

    kind: "adapter" or "full". rows: what it is trained on, with input_ids; the first make the
    probe.
    """

    def save_to(folder: Path) -> None:
        card = ModelCard(
            kind=kind,
            base=BaseReference(**task.base_reference),
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            data_sha256=task.data_sha256,
            run_id=task.run_id,
            ytrainer_version=__version__,
            config=task.config,
            parent=task.parent.get("uri", ""),
            parent_sha256=task.parent.get("sha256", ""),
        )
        first = [list(rows[i]["input_ids"]) for i in range(min(PROBE_ROWS, len(rows)))]
        probe = probe_batch(first, len(tokenizer))
        if is_split(model):
            weights = gathered_state(model, only_trained=kind == "adapter")
            logits = probe_logits(model, probe)  # every forward pass takes all processes
        else:
            weights = logits = None
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            with atomic_folder(folder) as scratch:
                save_trained(model, tokenizer, scratch, card, probe, weights=weights, logits=logits)

    return save_to


def with_replayed(
    rows: Any, corpus: Corpus, tokenizer: Any, config: SftConfig | PretrainConfig
) -> Any:
    """Tokenized rows with those of the general and the earlier corpus between them."""
    data = config.data
    pools = [
        (tokenize_dataset(pool, tokenizer, data), ratio)
        for pool, ratio in (
            (corpus.replay, data.replay_ratio),
            (corpus.earlier, data.earlier_ratio),
        )
        if len(pool)
    ]
    return with_replay(rows, pools, config.seed)


def training_job(config: SftConfig | PretrainConfig, *, ordered: bool) -> TrainJob:
    """The job of a stage's config. ordered: the rows come in a curriculum."""
    lora = config.lora if isinstance(config, SftConfig) else LoraConfig(rank=0)
    return TrainJob(
        data=config.data,
        objective=config.objective,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        dtype=compute_dtype(config.model.dtype),
        ordered=ordered or config.train.batching == "token_groups",
        attn_implementation=config.model.attn_implementation,
        lora=lora,
        deepspeed=deepspeed_settings(config.launch),
    )


def load_for_training(
    config: SftConfig | KtoConfig | PretrainConfig, base: Path
) -> tuple[Any, str]:
    """(model, "adapter" or "full"): the base, an earlier adapter or a new one on it."""
    rank = 0 if isinstance(config, PretrainConfig) else config.lora.rank
    if config.model.quantization != "none" and not rank:
        raise ConfigError(
            "model.quantization=4bit freezes the base, and lora.rank=0 trains no adapter. "
            "Set lora.rank, e.g. 16, or model.quantization=none."
        )
    # full training keeps float32 weights and computes in dtype; frozen ones may be dtype, and
    # DeepSpeed keeps float32 copies of its own
    whole = not rank and config.launch.engine == "ddp"
    dtype = torch.float32 if whole else compute_dtype(config.model.dtype)
    earlier = Path(config.model.init_from).expanduser() if config.model.init_from else None
    if earlier is not None:
        check_continuable(earlier, base)
        if not rank:
            adapted, _, _ = load_trained(earlier, config.model, str(base))
            return adapted.merge_and_unload().float().requires_grad_(True), "full"
    model = load_model(base, config.model, dtype=dtype)
    if not rank:
        return model, "full"
    assert not isinstance(config, PretrainConfig)
    if earlier is not None:
        return continue_adapter(model, earlier), "adapter"
    torch.manual_seed(config.seed)  # the adapters' first values
    return add_lora(model, config.lora), "adapter"


def check_continuable(folder: Path, base: Path) -> None:
    """Refuse an earlier model that is no adapter on this base."""
    if not (folder / CARD_NAME).exists():
        raise ConfigError(
            f"model.init_from {folder}: is not a model that ytrainer trained. Give the 'model' "
            "folder of a finished training; a model of another origin goes into "
            "model.name_or_path."
        )
    card = read_card(folder)
    if card.kind != "adapter":
        raise ConfigError(
            f"model.init_from {folder}: is a full model and its own base. Put it into "
            "model.name_or_path and leave init_from out."
        )
    if base_digest(base) != card.base.sha256:
        raise ConfigError(
            f"model.init_from {folder}: was trained on {card.base.name_or_path}, not on {base}. "
            f"Set model.name_or_path={card.base.name_or_path}."
        )


def load_teacher(config: SftConfig | PretrainConfig) -> Any:
    """The frozen teacher of a distillation, or None."""
    name = config.objective.distillation.teacher
    if not name:
        return None
    wanted = config.model.model_copy(update={"name_or_path": name, "revision": ""})
    return load_model(locate(wanted), wanted).eval().requires_grad_(False)


def read_order(path: Path, rows: int) -> list[int] | None:
    """Training order from an order file; None where the trainer shall shuffle.

    Raises CheckpointError where it is no order file, ConfigError where it orders other rows.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        mode, order = tree["mode"], [int(number) for number in tree["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is not an order file. Give the 'order' output of the order stage."
        ) from error
    if sorted(order) != list(range(rows)):
        raise ConfigError(
            f"{path}: orders {len(order)} rows, the corpus has {rows}. Give the order and the "
            "dataset of one pipeline run."
        )
    return None if mode == "none" else order
