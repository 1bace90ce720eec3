"""Defaults and descriptions of a pipeline's parameters, from the config fields they stand for."""

from collections.abc import Callable
from typing import Any, TypeVar

from pipelines.configs import PIPELINE_CONFIGS
from ytrainer_core.config.base import get_dotted
from ytrainer_core.config.headline import HEADLINE, as_parameter, headline_description

F = TypeVar("F", bound=Callable[..., object])

_CONFIG = "Every other knob, as a mapping of sections: {optim: {warmup_ratio: 0.1}}."


def default_of(pipeline: str, parameter: str) -> Any:
    """Default of a pipeline's headline parameter."""
    tree = PIPELINE_CONFIGS[pipeline]().model_dump(mode="json")
    return as_parameter(get_dotted(tree, HEADLINE[parameter]))


def described(name: str) -> Callable[[F], F]:
    """Append an Args section to a pipeline's docstring, which the run form shows."""

    def append(pipeline: F) -> F:
        known = [each for each in pipeline.__annotations__ if each in HEADLINE]
        model = PIPELINE_CONFIGS[name]
        lines = [f"    {each}: {headline_description(model, each)}" for each in known]
        pipeline.__doc__ = "\n".join(
            [pipeline.__doc__ or "", "", "Args:", *lines, f"    config: {_CONFIG}"]
        )
        return pipeline

    return append
