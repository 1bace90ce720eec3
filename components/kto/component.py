"""The kto stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def kto(
    dataset: Input[Dataset],
    model: Output[Model],
    report: Output[HTML],
    epochs: Output[Artifact],
    metrics: Output[Metrics],
    model_name_or_path: str = "demo:base",
    init_from: str = "",
    max_length: int = 1024,
    lora_rank: int = 16,
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Tune the model on liked and disliked answers."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "kto",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "init_from": init_from,
            "max_length": max_length,
            "lora_rank": lora_rank,
            "seed": seed,
        },
        inputs={"dataset": dataset.path},
        outputs={"model": model.path, "report": report.path, "epochs": epochs.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
