"""Defaults and descriptions of a pipeline's parameters, from the config fields they stand for."""

from collections.abc import Callable
from typing import Any, TypeVar

from ytrainer_core.config import FinetuneConfig
from ytrainer_core.config.headline import HEADLINE, headline_default, headline_description

F = TypeVar("F", bound=Callable[..., object])

_CONFIG = "Every other knob, as a mapping of sections: {optim: {warmup_ratio: 0.1}}."


def default(parameter: str) -> Any:
    """Default of a headline parameter."""
    return headline_default(FinetuneConfig, parameter)


def described(pipeline: F) -> F:
    """Append an Args section to a pipeline's docstring, which the run form shows."""
    names = [name for name in pipeline.__annotations__ if name in HEADLINE]
    lines = [f"    {name}: {headline_description(FinetuneConfig, name)}" for name in names]
    pipeline.__doc__ = "\n".join(
        [pipeline.__doc__ or "", "", "Args:", *lines, f"    config: {_CONFIG}"]
    )
    return pipeline
