"""Which config a pipeline reads: every section of its steps, with the pipeline's own defaults."""

from __future__ import annotations

from ytrainer_core.config import (
    ClusterConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    GateConfig,
    KtoConfig,
    ModelConfig,
    OrderConfig,
    PretrainConfig,
    RegistryConfig,
    ScoreConfig,
    StageConfig,
    ValidateConfig,
)


class RetrainConfig(FinetuneConfig):
    """The retrain pipeline: twice as many rows that the champion was trained on are replayed."""

    data: DataConfig = DataConfig(earlier_ratio=0.2)


class ScoreOnlyConfig(ValidateConfig):
    """The score_only pipeline: check, score and order, and train nothing."""

    score: ScoreConfig = ScoreConfig()
    order: OrderConfig = OrderConfig()
    cluster: ClusterConfig = ClusterConfig()


class KtoPipelineConfig(KtoConfig):
    """The kto pipeline: preference tuning, judged, registered and promoted."""

    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()
    cluster: ClusterConfig = ClusterConfig()


class PretrainPipelineConfig(PretrainConfig):
    """The pretrain pipeline: a model from scratch, registered as a base."""

    model: ModelConfig = ModelConfig(name_or_path="")
    registry: RegistryConfig = RegistryConfig()
    cluster: ClusterConfig = ClusterConfig()


TUNING_CONFIGS: dict[str, type[FinetuneConfig]] = {
    "finetune": FinetuneConfig,
    "retrain": RetrainConfig,
    "cpt": FinetuneConfig,
}
"""Those that end with the gate's verdict on a version; the trigger runs these."""

PIPELINE_CONFIGS: dict[str, type[StageConfig]] = {
    **TUNING_CONFIGS,
    "kto": KtoPipelineConfig,
    "pretrain": PretrainPipelineConfig,
    "score_only": ScoreOnlyConfig,
}
"""Name of a pipeline -> its config."""
