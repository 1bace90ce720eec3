"""The order stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def order(
    dataset: Input[Dataset],
    scores: Input[Artifact],
    order_file: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
    order_mode: str = "none",
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Order the corpus from easy to hard."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "order",
        config,
        headline={
            "order_mode": order_mode,
            "seed": seed,
        },
        inputs={"dataset": dataset.path, "scores": scores.path},
        outputs={"order": order_file.path, "report": report.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
