"""Every knob of ytrainer, declared once: type, bounds, default, unit, description."""

from ytrainer_core.config.base import Section, default_of, dump_json, walk_fields
from ytrainer_core.config.cluster import ClusterConfig
from ytrainer_core.config.data import DataConfig
from ytrainer_core.config.delivery import RegistryConfig, TrackingConfig
from ytrainer_core.config.judging import EvaluateConfig, GateConfig, OrderConfig, ScoreConfig
from ytrainer_core.config.objective import NlirgConfig, ObjectiveConfig
from ytrainer_core.config.preference import PreferenceConfig
from ytrainer_core.config.stages import (
    ALL_SECTIONS,
    STAGE_CONFIGS,
    CptConfig,
    EvaluateStageConfig,
    FinetuneConfig,
    KtoConfig,
    OrderStageConfig,
    PretrainConfig,
    PromoteConfig,
    RegisterConfig,
    ScoreStageConfig,
    SftConfig,
    StageConfig,
    ValidateConfig,
    load_config,
    narrow,
)
from ytrainer_core.config.training import (
    ArchitectureConfig,
    LaunchConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

__all__ = [
    "ALL_SECTIONS",
    "STAGE_CONFIGS",
    "ArchitectureConfig",
    "ClusterConfig",
    "CptConfig",
    "DataConfig",
    "EvaluateConfig",
    "EvaluateStageConfig",
    "FinetuneConfig",
    "GateConfig",
    "KtoConfig",
    "LaunchConfig",
    "LoraConfig",
    "ModelConfig",
    "NlirgConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "OrderConfig",
    "OrderStageConfig",
    "PreferenceConfig",
    "PretrainConfig",
    "PromoteConfig",
    "RegisterConfig",
    "RegistryConfig",
    "ScoreConfig",
    "ScoreStageConfig",
    "Section",
    "SftConfig",
    "StageConfig",
    "TrackingConfig",
    "TrainConfig",
    "ValidateConfig",
    "default_of",
    "dump_json",
    "load_config",
    "narrow",
    "walk_fields",
]
