"""DeepSpeed's settings from ours, and models whose weights it splits over the processes.

ZeRO (arXiv 1910.02054): stage 1 splits the optimizer's state, 2 also the gradients, 3 also
the weights. A split weight is put together around each module call, and only there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import LaunchConfig, PretrainConfig, SftConfig
from ytrainer_core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FILLED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16.enabled",
    "fp16.enabled",
)
"""DeepSpeed's keys that our own config decides; transformers puts its values for `auto`."""

_OURS = {"optimizer": "optim.*", "scheduler": "optim.lr_scheduler and optim.warmup_*"}
"""DeepSpeed's sections that our own config takes the place of."""


def deepspeed_settings(launch: LaunchConfig) -> dict[str, Any] | None:
    """DeepSpeed's configuration, with `auto` where transformers fills in; None under DDP.

    The optimizer is ours (optim.optimizer) also where its state lies in main memory: torch's
    AdamW has a fused kernel for the CPU, so that nothing has to be compiled.
    Raises ConfigError where launch.deepspeed_config is no such file, or contradicts our config.
    """
    if launch.engine != "deepspeed":
        return None
    settings: dict[str, Any] = {"zero_optimization": {"stage": launch.zero}}
    if launch.deepspeed_config:
        settings = _read(Path(launch.deepspeed_config).expanduser())
    zero = settings.setdefault("zero_optimization", {"stage": 0})
    if launch.offload == "cpu" and not launch.deepspeed_config:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if launch.zero == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if zero.get("stage") == 3:
        for name in ("reduce_bucket_size", "prefetch_bucket_size", "param_persistence_threshold"):
            zero.setdefault(name if name.startswith("reduce") else f"stage3_{name}", "auto")
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    for key in _FILLED:
        _put(settings, key, "auto")
    return settings | {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}


def _read(path: Path) -> dict[str, Any]:
    """A DeepSpeed file. Raises ConfigError with all that does not go together with our config."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"launch.deepspeed_config {path}: cannot be read ({type(error).__name__}). Name a "
            "DeepSpeed JSON file, or leave it empty and set launch.zero."
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"launch.deepspeed_config {path}:{error.lineno}: is not JSON ({error.msg})."
        ) from error
    if not isinstance(settings, dict) or not isinstance(
        settings.get("zero_optimization", {}), dict
    ):
        raise ConfigError(
            f"launch.deepspeed_config {path}: is not a DeepSpeed configuration. It is one object "
            'with sections, e.g. {"zero_optimization": {"stage": 2}}.'
        )
    faults = [
        f"launch.deepspeed_config {path}: '{name}' is set by {ours}. Remove the section."
        for name, ours in _OURS.items()
        if name in settings
    ]
    for key in _FILLED:
        value = _get(settings, key)
        if value not in (None, "auto"):
            faults.append(
                f"launch.deepspeed_config {path}: {key}={value!r} is decided by train, optim and "
                f'model.dtype. Write "auto", or remove it.'
            )
    if faults:
        raise ConfigError(*faults)
    return settings


def _get(tree: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def check_deepspeed(config: SftConfig | PretrainConfig) -> None:
    """Raise ConfigError, with every fault, where the training cannot run under DeepSpeed."""
    import torch

    from ytrainer_core.objectives import OBJECTIVES

    settings = deepspeed_settings(config.launch)
    if settings is None:
        return
    faults = []
    if importlib.util.find_spec("deepspeed") is None:
        faults.append(
            "launch.engine=deepspeed: the package is missing. pip install 'ytrainer[deepspeed]', "
            "or set launch.engine=ddp."
        )
    if config.objective.normalization == "weights":
        faults.append(
            "objective.normalization=weights scales gradients, which DeepSpeed does not hand out. "
            "Set objective.normalization=tokens, or launch.engine=ddp."
        )
    zero = settings["zero_optimization"]
    launch = config.launch
    has_gpu = launch.node_gpus > 0 if launch.nodes > 1 else torch.cuda.is_available()
    if zero.get("offload_optimizer") and not has_gpu:
        faults.append(
            "launch.offload=cpu: without a GPU everything is in main memory already. Set "
            "launch.offload=none."
        )
    if zero.get("stage") == 3:
        remedy = "Take launch.zero=2"
        if OBJECTIVES[config.objective.name].base_nll:
            faults.append(
                f"objective {config.objective.name} measures the base model before training, "
                f"which ZeRO-3 has split over the processes. {remedy}."
            )
        if config.model.quantization != "none":
            faults.append(f"model.quantization: ZeRO-3 cannot split a base in 4 bits. {remedy}.")
        if isinstance(config, SftConfig) and config.lora.rank and config.lora.init == "pissa":
            faults.append(
                f"lora.init=pissa takes whole weights apart, which ZeRO-3 has split. {remedy}, or "
                "lora.init=default."
            )
        if isinstance(config, SftConfig) and config.model.init_from and not config.lora.rank:
            faults.append(
                "model.init_from with lora.rank=0 merges an adapter, which ZeRO-3 has split. "
                "Merge it beforehand: ytrainer merge, then model.name_or_path."
            )
    if faults:
        raise ConfigError(*faults)


@contextlib.contextmanager
def split_while_loading(settings: Mapping[str, Any] | None, dtype: torch.dtype) -> Iterator[None]:
    """Models that are loaded within are split over the processes at once, where settings ask.

    No process ever holds such a model whole. Needs torch.distributed to be initialised.
    """
    import torch

    zero = dict((settings or {}).get("zero_optimization", {}))
    if zero.get("stage") != 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    kept_alive = HfDeepSpeedConfig(
        {
            "train_micro_batch_size_per_gpu": 1,  # demanded, and of no effect here
            "zero_optimization": {k: v for k, v in zero.items() if v != "auto"},
            "bf16": {"enabled": dtype == torch.bfloat16},
            "fp16": {"enabled": dtype == torch.float16},
        }
    )
    try:
        yield
    finally:
        del kept_alive
        unset_hf_deepspeed_config()


def compile_nothing() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives for the CPU; gloo does as well.

    It would ask for a compiler, take seconds, and write into the home directory.
    """
    if importlib.util.find_spec("deepspeed") is not None:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__ = {}  # what could be compiled here: nothing


def is_split(model: Any) -> bool:
    """Whether the model's weights are split over the processes (ZeRO-3)."""
    return any(hasattr(weight, "ds_id") for weight in model.parameters())


def gathered_state(model: Any, *, only_trained: bool) -> dict[str, Tensor] | None:
    """Whole weights by name, in main memory of the first process; None where none is split.

    All processes must call it; one weight at a time is put together on the device. only_trained:
    leave frozen weights out. Processes other than the first get an empty dict.
    """
    if not is_split(model):
        return None
    import deepspeed
    import torch

    first = torch.distributed.get_rank() == 0
    state = {}
    for name, weight in model.named_parameters():
        if only_trained and not weight.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([weight]):
            if first:
                state[name] = weight.detach().to("cpu", copy=True).contiguous()
    return state
