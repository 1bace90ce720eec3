"""liger-kernel's fused cross-entropy in the place of ours: an optional backend for CUDA.

Written from the interface of liger-kernel 0.8.5 (liger_fused_linear_cross_entropy with
reduction="none", which recomputes the logits in the backward pass, so that each token
may have its own weight). It has not been run by this project's tests, which have no GPU:
what is tested is that it refuses where it cannot work.
"""

from __future__ import annotations

from importlib import metadata

import torch
from torch import Tensor

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.linear_nll import TokenLoss
from ytrainer_core.objectives.projection import Projection

_OLDEST = (0, 8, 5)
"""Version whose source says that reduction="none" gives each token its own gradient."""

_REMEDY = "Set objective.backend=chunked, or "


def check_liger(config: ObjectiveConfig, *, soft_target: bool) -> None:
    """Raise ConfigError, with all reasons, where liger-kernel cannot do what is configured."""
    faults = []
    if config.name != "cross_entropy" or soft_target:
        faults.append(
            "objective.backend=liger does plain cross_entropy alone. "
            f"{_REMEDY}objective.name=cross_entropy without a teacher."
        )
    try:
        found = metadata.version("liger-kernel")
    except metadata.PackageNotFoundError:
        found = ""
    if not found or tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        faults.append(
            f"objective.backend=liger: liger-kernel {found or 'is not installed'}"
            f"{' is too old' if found else ''}. {_REMEDY}pip install 'liger-kernel>={oldest}'."
        )
    if not torch.cuda.is_available():
        faults.append(f"objective.backend=liger: there is no CUDA GPU. {_REMEDY}train on one.")
    if faults:
        raise ConfigError(*faults)


def liger_token_loss(projection: Projection, labels: Tensor, given: Tensor | None) -> TokenLoss:
    """Cross-entropy by liger-kernel; arguments and result as linear_token_loss has them."""
    from liger_kernel.transformers.functional import (  # type: ignore[import-not-found,unused-ignore]
        liger_fused_linear_cross_entropy,
    )

    if len(projection.pairs) > 1:
        raise ConfigError(
            "objective.backend=liger cannot train an adapter on the head. "
            f"{_REMEDY}take the head ('lm_head') out of lora.target_modules."
        )
    ((hidden, matrix),) = projection.pairs
    if not projection.tokens:  # its kernels have no empty grid
        nll = hidden.sum(dim=-1).float()
    else:
        nll = liger_fused_linear_cross_entropy(
            hidden,
            matrix.to(hidden.dtype),
            labels,
            bias=projection.bias,
            reduction="none",
            softcap=projection.softcap or None,
            accum_dtype=torch.float32,
        ).float()
    weights = torch.ones_like(nll.detach()) if given is None else given
    return TokenLoss((weights * nll).sum(), nll.detach(), weights)
