"""The cpt stage as a Kubeflow component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def cpt(
    dataset: Input[Dataset],
    order_file: Input[Artifact],
    model: Output[Model],
    report: Output[HTML],
    epochs: Output[Artifact],
    metrics: Output[Metrics],
    model_name_or_path: str = "demo:base",
    init_from: str = "",
    earlier_ratio: float = 0.1,
    max_length: int = 1024,
    objective: str = "nlirg",
    learning_rate: float = 0.0002,
    num_train_epochs: float = 3.0,
    lora_rank: int = 16,
    seed: int = 42,
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
):
    """Continue pre-training on raw text: labels on every token."""
    from ytrainer_core.stages import run_component

    result = run_component(
        "cpt",
        config,
        headline={
            "model_name_or_path": model_name_or_path,
            "init_from": init_from,
            "earlier_ratio": earlier_ratio,
            "max_length": max_length,
            "objective": objective,
            "learning_rate": learning_rate,
            "num_train_epochs": num_train_epochs,
            "lora_rank": lora_rank,
            "seed": seed,
        },
        inputs={"dataset": dataset.path, "order": order_file.path},
        outputs={"model": model.path, "report": report.path, "epochs": epochs.path},
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
