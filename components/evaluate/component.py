"""The evaluate stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    model: Input[Model],
    dataset: Input[Dataset],
    evaluation: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
    model_name_or_path: str = "demo:base",
    max_length: int = 1024,
    max_general_loss_rise: float = 0.1,
    registered_model_name: str = "ytrainer-model",
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
) -> bool:
    """Measure base, champion and tuned model on the same rows; the gate returns its verdict."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "evaluate",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "max_length": max_length,
            "max_general_loss_rise": max_general_loss_rise,
            "registered_model_name": registered_model_name,
            "seed": seed,
        },
        inputs={"model": model.path, "dataset": dataset.path},
        outputs={"evaluation": evaluation.path, "report": report.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return result.values["passed"]
