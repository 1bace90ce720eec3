"""The dozen knobs a person sees in a Kubeflow run form, and how they join the config.

A headline parameter has the type and default of its config field. It may be set
in the form or in the `config` parameter, not differently in both.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from ytrainer_core.config.base import (
    Section,
    default_of,
    description_of,
    get_dotted,
    set_dotted,
    validate_tree,
    walk_fields,
)
from ytrainer_core.errors import ConfigError

HEADLINE: dict[str, str] = {
    "model_name_or_path": "model.name_or_path",
    "init_from": "model.init_from",
    "data_train": "data.train",
    "data_validation": "data.validation",
    "data_general": "data.general",
    "data_purpose": "data.purpose",
    "earlier_ratio": "data.earlier_ratio",
    "max_rows": "data.max_rows",
    "max_length": "data.max_length",
    "objective": "objective.name",
    "learning_rate": "optim.learning_rate",
    "num_train_epochs": "train.num_train_epochs",
    "lora_rank": "lora.rank",
    "order_mode": "order.mode",
    "max_general_loss_rise": "gate.max_general_loss_rise",
    "registered_model_name": "registry.name",
    "seed": "seed",
}
"""Parameter name in the form -> dotted config key."""


def as_parameter(value: Any) -> Any:
    """A config value as a pipeline parameter: lists become comma-separated strings."""
    return ",".join(value) if isinstance(value, tuple | list) else value


def headline_default(model: type[Section], name: str) -> Any:
    """Default of a headline parameter, as the pipeline signature shows it."""
    return as_parameter(default_of(model, HEADLINE[name]))


def headline_description(model: type[Section], name: str) -> str:
    """Description of a headline parameter, from its config field."""
    return next(description_of(field) for key, field in walk_fields(model) if key == HEADLINE[name])


def join_headline(
    model: type[Section], config: Mapping[str, Any], headline: Mapping[str, Any]
) -> dict[str, Any]:
    """One tree from the `config` parameter and the headline parameters.

    A headline parameter left at its default does not touch what `config` says.
    Raises ConfigError where both say different things.
    """
    tree: dict[str, Any] = _deep_copy(config)
    faults = []
    for name, value in headline.items():
        dotted = HEADLINE[name]
        said = get_dotted(tree, dotted)
        if value == headline_default(model, name):
            continue
        if said is not None and _as_shown(model, dotted, said) != value:
            faults.append(
                f"{dotted}: the parameter {name} says {value!r} and config says {said!r}. "
                "Set it in one place."
            )
        set_dotted(tree, dotted, value)
    if faults:
        raise ConfigError(*faults)
    return tree


def split_headline(
    model: type[Section], tree: Mapping[str, Any], names: Container[str] = HEADLINE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of join_headline: (headline parameters, what is left for `config`).

    names: the parameters that there are. They have the types of their fields: YAML reads 1e-4 as
    text, and kfp refuses that.
    """
    rest: dict[str, Any] = _deep_copy(tree)
    typed = validate_tree(model, tree, foreign=tree).model_dump(mode="json")
    headline: dict[str, Any] = {}
    for name, dotted in HEADLINE.items():
        if name not in names or get_dotted(rest, dotted) is None:
            continue
        headline[name] = as_parameter(get_dotted(typed, dotted))
        *parents, leaf = dotted.split(".")
        node = rest
        for parent in parents:
            node = node[parent]
        del node[leaf]
    return headline, {key: value for key, value in rest.items() if value != {}}


def _as_shown(model: type[Section], dotted: str, said: Any) -> Any:
    """A value of `config` as the form shows it; one that is no valid value, as it is."""
    alone: dict[str, Any] = {}
    set_dotted(alone, dotted, said)
    try:
        typed = validate_tree(model, alone)
    except ConfigError:
        return said
    return as_parameter(get_dotted(typed.model_dump(mode="json"), dotted))


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _deep_copy(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }
