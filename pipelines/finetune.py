"""The main job: a corpus goes in, a judged and registered model comes out."""

from functools import partial

from kfp import dsl

from pipelines.chain import Outputs, chain
from pipelines.headline import default_of, described

default = partial(default_of, "finetune")


@dsl.pipeline(name="finetune")
@described("finetune")
def finetune(
    model_name_or_path: str = default("model_name_or_path"),
    init_from: str = default("init_from"),
    data_train: str = default("data_train"),
    data_validation: str = default("data_validation"),
    data_general: str = default("data_general"),
    earlier_ratio: float = default("earlier_ratio"),
    max_rows: int = default("max_rows"),
    max_length: int = default("max_length"),
    objective: str = default("objective"),
    learning_rate: float = default("learning_rate"),
    num_train_epochs: float = default("num_train_epochs"),
    lora_rank: int = default("lora_rank"),
    order_mode: str = default("order_mode"),
    max_general_loss_rise: float = default("max_general_loss_rise"),
    registered_model_name: str = default("registered_model_name"),
    seed: int = default("seed"),
    config: dict = {},  # noqa: B006 - kfp stores the default, nobody can change it
) -> Outputs:
    """Validate, score, order, tune, evaluate, register, and promote what passes the gate."""
    return chain(**locals())
