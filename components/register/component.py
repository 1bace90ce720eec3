"""The register stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    model: Input[Model],
    metrics: Output[Metrics],
    evaluation: Input[Artifact] = None,
    model_name_or_path: str = "demo:base",
    registered_model_name: str = "ytrainer-model",
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
) -> str:
    """Register the trained model and prove that it reloads unchanged."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "register",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "registered_model_name": registered_model_name,
        },
        inputs={"model": model.path, "evaluation": evaluation.path if evaluation else ""},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return result.values["version"]
