"""The validate stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    dataset: Output[Dataset],
    report: Output[HTML],
    metrics: Output[Metrics],
    model_name_or_path: str = "demo:base",
    init_from: str = "",
    data_train: str = "",
    data_validation: str = "",
    data_general: str = "",
    data_purpose: str = "sft",
    earlier_ratio: float = 0.1,
    max_rows: int = 0,
    max_length: int = 1024,
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Check every row of the corpus; keep or quarantine it with its reason."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "validate",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "init_from": init_from,
            "data_train": data_train,
            "data_validation": data_validation,
            "data_general": data_general,
            "data_purpose": data_purpose,
            "earlier_ratio": earlier_ratio,
            "max_rows": max_rows,
            "max_length": max_length,
            "seed": seed,
        },
        outputs={"dataset": dataset.path, "report": report.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
