"""The promote stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    version: str,
    metrics: Output[Metrics],
    registered_model_name: str = "ytrainer-model",
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Move the champion alias to a version that passed the gate."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "promote",
        config,
        headline={
            "registered_model_name": registered_model_name,
        },
        inputs={"version": version},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
