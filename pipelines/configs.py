"""Which config a pipeline reads: every section of its steps, with the pipeline's own defaults."""

from __future__ import annotations

from ytrainer_core.config import DataConfig, FinetuneConfig


class RetrainConfig(FinetuneConfig):
    """The retrain pipeline: twice as many rows that the champion was trained on are replayed."""

    data: DataConfig = DataConfig(earlier_ratio=0.2)


PIPELINE_CONFIGS: dict[str, type[FinetuneConfig]] = {
    "finetune": FinetuneConfig,
    "retrain": RetrainConfig,
}
"""Name of a pipeline -> its config."""
