"""The score stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    dataset: Input[Dataset],
    scored: Output[Dataset],
    scores: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
    model_name_or_path: str = "demo:base",
    max_length: int = 1024,
    learning_rate: float = 0.0002,
    num_train_epochs: float = 3.0,
    lora_rank: int = 16,
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Rate every row by the model's own loss and entropy; score.folds tunes it on other rows."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "score",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "max_length": max_length,
            "learning_rate": learning_rate,
            "num_train_epochs": num_train_epochs,
            "lora_rank": lora_rank,
            "seed": seed,
        },
        inputs={"dataset": dataset.path},
        outputs={"dataset": scored.path, "scores": scores.path, "report": report.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
