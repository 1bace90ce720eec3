"""One config model per stage: which sections a stage reads, and nothing else.

FinetuneConfig is the union that the finetune pipeline shows; every stage of the
pipeline narrows it to its own sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ytrainer_core.config.base import S, Section, read_tree, validate_tree
from ytrainer_core.config.cluster import ClusterConfig
from ytrainer_core.config.data import DataConfig
from ytrainer_core.config.delivery import RegistryConfig, TrackingConfig
from ytrainer_core.config.judging import EvaluateConfig, GateConfig, OrderConfig, ScoreConfig
from ytrainer_core.config.objective import ObjectiveConfig
from ytrainer_core.config.preference import PreferenceConfig
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
    """Score every row by the model's own signals.

    The sections of a training say how the model is tuned where score.folds asks for it.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
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


class KtoConfig(StageConfig):
    """Preference tuning: towards answers that were liked, away from those that were not."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig(purpose="kto", earlier_ratio=0.0)
    optim: OptimConfig = OptimConfig(learning_rate=1e-5)
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig(num_train_epochs=1)
    preference: PreferenceConfig = PreferenceConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _rows_serve_the_loss(self) -> Self:
        purpose, loss = self.data.purpose, self.preference.loss
        wanted = ("preference", "auto") if loss == "dpo" else ("kto", "preference", "auto")
        if purpose not in wanted:
            raise ValueError(
                f"preference.loss={loss} learns from rows that data.purpose={purpose} leaves out. "
                f"Set data.purpose={wanted[0]}"
            )
        if self.data.on_too_long == "split":
            raise ValueError(
                "data.on_too_long=split trains pieces, and an answer is liked as a whole. Set it "
                "to drop or truncate"
            )
        return self

    @model_validator(mode="after")
    def _reference_can_be_had(self) -> Self:
        if self.preference.reference == "adapter_off" and not self.lora.rank:
            raise ValueError(
                "preference.reference=adapter_off needs an adapter, and lora.rank=0 trains none. "
                "Set preference.reference=precomputed, or lora.rank above 0"
            )
        if self.preference.reference == "adapter_off" and self.lora.init == "pissa":
            raise ValueError(
                "preference.reference=adapter_off is not the base model where lora.init=pissa has "
                "taken the adapter out of it. Set preference.reference=precomputed"
            )
        if self.lora.dropout:
            raise ValueError(
                "lora.dropout would make the log-probabilities noisy that are compared with the "
                "reference's. Set lora.dropout=0"
            )
        return self

    @model_validator(mode="after")
    def _one_process(self) -> Self:
        if self.launch.world_size > 1 or self.launch.engine != "ddp":
            raise ValueError(
                "preference tuning runs in one process so far: its batches are made for one. Set "
                "launch.processes=1, launch.nodes=1 and launch.engine=ddp"
            )
        return self


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
    "kto": KtoConfig,
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
