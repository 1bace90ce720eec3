"""One config model per stage: which sections a stage reads, and nothing else.

FinetuneConfig is the union that the finetune pipeline shows; every stage of the
pipeline narrows it to its own sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ytrainer_core.config.base import S, Section, read_tree, validate_tree
from ytrainer_core.config.cluster import ClusterConfig
from ytrainer_core.config.data import DataConfig
from ytrainer_core.config.delivery import RegistryConfig, TrackingConfig
from ytrainer_core.config.judging import EvaluateConfig, GateConfig, OrderConfig, ScoreConfig
from ytrainer_core.config.objective import ObjectiveConfig
from ytrainer_core.config.training import (
    ArchitectureConfig,
    LaunchConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


class StageConfig(Section):
    """What every stage has."""

    tracking: TrackingConfig = TrackingConfig()

    output_dir: str = ""
    """Folder for what the stage makes; empty makes a dated one below YTRAINER_HOME."""

    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of all randomness: same seed, same batches, same weights."""


class ValidateConfig(StageConfig):
    """Check the corpus and split it."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()


class ScoreStageConfig(StageConfig):
    """Score every row by the base model's own signals."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    score: ScoreConfig = ScoreConfig()


class OrderStageConfig(StageConfig):
    """Order the rows from easy to hard."""

    order: OrderConfig = OrderConfig()


class SftConfig(StageConfig):
    """Instruction tuning: labels on the assistant's tokens."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    launch: LaunchConfig = LaunchConfig()


class CptConfig(SftConfig):
    """Continued pre-training: labels on every token of raw text."""


class PretrainConfig(StageConfig):
    """A small model from scratch: tokenizer, weights, every token trained."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig(name="cross_entropy")
    optim: OptimConfig = OptimConfig(learning_rate=2e-3, weight_decay=0.1)
    train: TrainConfig = TrainConfig(num_train_epochs=1)
    launch: LaunchConfig = LaunchConfig()


class EvaluateStageConfig(StageConfig):
    """Measure base, champion and tuned model on the same rows and judge the differences."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()


class RegisterConfig(StageConfig):
    """Register the trained model and prove that it reloads unchanged."""

    model: ModelConfig = ModelConfig()
    registry: RegistryConfig = RegistryConfig()


class PromoteConfig(StageConfig):
    """Move the champion alias to a version that passed the gate."""

    registry: RegistryConfig = RegistryConfig()


class FinetuneConfig(SftConfig):
    """The finetune pipeline: every section of its stages, and where they run."""

    score: ScoreConfig = ScoreConfig()
    order: OrderConfig = OrderConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()
    cluster: ClusterConfig = ClusterConfig()


STAGE_CONFIGS: dict[str, type[StageConfig]] = {
    "validate": ValidateConfig,
    "score": ScoreStageConfig,
    "order": OrderStageConfig,
    "pretrain": PretrainConfig,
    "cpt": CptConfig,
    "sft": SftConfig,
    "evaluate": EvaluateStageConfig,
    "register": RegisterConfig,
    "promote": PromoteConfig,
}

_ALL_CONFIGS: tuple[type[StageConfig], ...] = (*STAGE_CONFIGS.values(), FinetuneConfig)
ALL_SECTIONS = frozenset(name for model in _ALL_CONFIGS for name in model.model_fields)
"""Every top-level key that a stage or a pipeline reads."""


def load_config(model: type[S], path: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Read one YAML and its overrides into a config model.

    Sections of other stages are left alone, so one file serves every command.
    Raises ConfigError with every fault, each with file, line and remedy.
    """
    return narrow(model, read_tree(path, overrides), path)


def narrow(model: type[S], tree: Mapping[str, Any], path: Path | None = None) -> S:
    """Validate the sections that `model` declares; refuse what no stage declares."""
    return validate_tree(model, tree, foreign=ALL_SECTIONS - set(model.model_fields), path=path)
