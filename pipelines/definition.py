"""A pipeline is declared once: a function adds its steps, its config gives it its parameters.

Traced for a cluster, every step is also told where and how to run there; the steps, what they hand
to each other and the parameters are the same.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from pipelines.configs import PIPELINE_CONFIGS
from pipelines.placement import Placement, parameters_of, place
from ytrainer_core.config import ClusterConfig, StageConfig, walk_fields
from ytrainer_core.config.base import description_of, get_dotted
from ytrainer_core.config.headline import HEADLINE, as_parameter

_CONFIG = "config"
_EVERY_OTHER = "Every other knob, as a mapping of sections: {optim: {warmup_ratio: 0.1}}."


class Steps:
    """Adds steps to the pipeline that is being traced.

    given: the pipeline's parameters. used: those that a step has asked for.
    """

    def __init__(self, given: Mapping[str, Any], placement: Placement | None) -> None:
        self._given, self._placement = given, placement
        self.used: set[str] = set()

    def add(self, component: Any, **inputs: Any) -> Any:
        """A step that gets all parameters it knows, besides these inputs; kfp's task.

        Kubeflow's cache is off: it goes by addresses and names, and what lies there may have
        changed. Our own go by content: corpora, tokens, evaluations and trainings.
        """
        known = component.component_spec.inputs
        own = {name: v for name, v in self._given.items() if name in known and name not in inputs}
        self.used |= own.keys()
        task = component(**own, **inputs)
        task.set_caching_options(False)
        if self._placement:
            place(task, self._given, self._placement)
        return task


@dataclass(frozen=True)
class Definition:
    """What a pipeline is. name: as PIPELINE_CONFIGS has it. body: adds the steps."""

    name: str
    body: Callable[[Steps], Any]

    @property
    def config(self) -> type[StageConfig]:
        """Every section that its steps read."""
        return PIPELINE_CONFIGS[self.name]

    def trace(self, placement: Placement | None = None) -> Any:
        """kfp's pipeline, to be called, run or compiled; without a placement for this machine."""
        headline = self._headline()
        asked = self._trace(headline, placement)[1]
        return self._trace({n: v for n, v in headline.items() if n in asked}, placement)[0]

    def _headline(self) -> dict[str, Any]:
        """Every headline parameter that the config knows, with the pipeline's own default."""
        knobs = {dotted for dotted, _ in walk_fields(self.config)}
        own = self.config().model_dump(mode="json")
        return {
            name: as_parameter(get_dotted(own, dotted))
            for name, dotted in HEADLINE.items()
            if dotted in knobs
        }

    def _trace(
        self, headline: Mapping[str, Any], placement: Placement | None
    ) -> tuple[Any, set[str]]:
        """The pipeline with these parameters, and which of them its steps have asked for."""
        cluster = placement.cluster if placement else ClusterConfig()
        defaults = {**headline, **parameters_of(cluster), _CONFIG: {}}
        used: set[str] = set()

        def pipeline(*values: Any) -> Any:
            steps = Steps(dict(zip(defaults, values, strict=True)), placement)
            outputs = self.body(steps)
            used.update(steps.used)
            return outputs

        pipeline.__name__ = self.name
        pipeline.__doc__ = self._doc(defaults)
        pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=default,
                    annotation=type(default),
                )
                for name, default in defaults.items()
            ],
            return_annotation=inspect.signature(self.body).return_annotation,
        )
        return dsl.pipeline(name=self.name)(pipeline), used

    def _doc(self, parameters: Mapping[str, Any]) -> str:
        """The body's docstring with an Args section, which the run form shows."""
        told = {dotted: description_of(field) for dotted, field in walk_fields(self.config)}
        lines = []
        for name in parameters:
            said = _EVERY_OTHER if name == _CONFIG else told[HEADLINE.get(name, f"cluster.{name}")]
            lines.append(f"    {name}: {said}")
        return "\n".join([inspect.getdoc(self.body) or "", "", "Args:", *lines])
