"""The configured optimizer, LoRA+ included, for every trainer of ours."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from ytrainer_core.errors import ConfigError
from ytrainer_core.training.job import TrainJob


class OptimizerTrainer(Trainer):  # type: ignore[misc]
    """Trainer that makes the optimizer of its job, kept in `_job`."""

    _job: TrainJob

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The configured optimizer; LoRA+ gives the B matrices a larger learning rate."""
        try:
            return self._create_optimizer(model)
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"optim.optimizer '{self._job.optim.optimizer}' is not to be had here: "
                f"{str(error).splitlines()[0]} adamw_torch needs nothing more."
            ) from error

    def _create_optimizer(self, model: Any) -> torch.optim.Optimizer:
        ratio = self._job.lora.plus_ratio
        if ratio == 1 or self.optimizer is not None:
            plain: torch.optim.Optimizer = super().create_optimizer(model)
            return plain
        from peft.optimizers import create_loraplus_optimizer

        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
        options |= {"weight_decay": self.args.weight_decay}
        self.optimizer: Any = create_loraplus_optimizer(
            causal_lm_or_peft(model or self.model), kind, loraplus_lr_ratio=ratio, **options
        )
        return self.optimizer  # type: ignore[no-any-return]

    def floating_point_ops(self, inputs: Any) -> int:
        """None: it would walk all parameters at every micro-batch; flops.py counts afterwards."""
        return 0


def causal_lm_or_peft(model: Any) -> Any:
    """The model below DDP's or DeepSpeed's wrapping, adapters still on it."""
    while hasattr(model, "module"):
        model = model.module
    return model
