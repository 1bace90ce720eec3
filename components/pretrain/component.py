"""The pretrain stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pretrain(
    dataset: Input[Dataset],
    model: Output[Model],
    report: Output[HTML],
    epochs: Output[Artifact],
    metrics: Output[Metrics],
    max_length: int = 1024,
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Train a small model from scratch, tokenizer included."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "pretrain",
        config,
        headline={
            "max_length": max_length,
            "seed": seed,
        },
        inputs={"dataset": dataset.path},
        outputs={"model": model.path, "report": report.path, "epochs": epochs.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
