"""The run form's parameters and the `config` parameter are one config, said once."""

from __future__ import annotations

from typing import Any

import pytest

from ytrainer_core.config import FinetuneConfig, narrow
from ytrainer_core.config.headline import (
    HEADLINE,
    headline_default,
    headline_description,
    join_headline,
    split_headline,
)
from ytrainer_core.errors import ConfigError


def defaults() -> dict[str, Any]:
    return {name: headline_default(FinetuneConfig, name) for name in HEADLINE}


def join(config: dict[str, Any], **headline: Any) -> FinetuneConfig:
    return narrow(FinetuneConfig, join_headline(FinetuneConfig, config, defaults() | headline))


def test_a_form_left_alone_is_the_default_config() -> None:
    assert join({}) == FinetuneConfig()


@pytest.mark.parametrize("name", HEADLINE)
def test_every_parameter_has_a_description_and_a_default_that_a_form_can_show(name: str) -> None:
    assert headline_description(FinetuneConfig, name)
    assert isinstance(headline_default(FinetuneConfig, name), str | int | float)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"seed": 3},
        {"optim": {"learning_rate": 1e-5}},
        {"optim": {"learning_rate": "1e-5", "weight_decay": 0.1}},
        {"data": {"train": ["a.json", "b.json"], "max_rows": 7, "encoding": "gbk"}},
        {"data": {"train": "a.json, b.json"}},
        {"lora": {"rank": 16}, "order": {"mode": "similarity"}, "registry": {"name": "mine"}},
        {"objective": {"name": "cross_entropy", "nlirg": {"cutoff": 12}}, "gate": {"min_rows": 5}},
    ],
)
def test_split_then_join_is_the_same_config(tree: dict[str, Any]) -> None:
    headline, rest = split_headline(FinetuneConfig, tree)
    assert join(rest, **headline) == narrow(FinetuneConfig, tree)


def test_split_takes_the_headline_out_and_leaves_the_rest() -> None:
    tree = {"data": {"train": ["a", "b"], "encoding": "gbk"}, "lora": {"rank": 4}}
    headline, rest = split_headline(FinetuneConfig, tree)
    assert headline == {"data_train": "a,b", "lora_rank": 4}
    assert rest == {"data": {"encoding": "gbk"}}
    assert tree == {"data": {"train": ["a", "b"], "encoding": "gbk"}, "lora": {"rank": 4}}


def test_two_different_values_for_one_knob_are_refused_all_together() -> None:
    with pytest.raises(ConfigError) as caught:
        join({"lora": {"rank": 8}, "seed": 1}, lora_rank=4, seed=2)
    assert list(caught.value.faults) == [
        "lora.rank: the parameter lora_rank says 4 and config says 8. Set it in one place.",
        "seed: the parameter seed says 2 and config says 1. Set it in one place.",
    ]


@pytest.mark.parametrize(
    "config, headline",
    [
        ({"lora": {"rank": 4}}, {"lora_rank": 4}),
        ({"data": {"train": ["a", "b"]}}, {"data_train": "a,b"}),
        ({"data": {"train": "a, b"}}, {"data_train": "a,b"}),
        ({"optim": {"learning_rate": "1e-5"}}, {"learning_rate": 1e-5}),
    ],
)
def test_the_same_value_said_twice_is_no_contradiction(
    config: dict[str, Any], headline: dict[str, Any]
) -> None:
    assert join(config, **headline) == narrow(FinetuneConfig, config)


def test_a_parameter_left_at_its_default_does_not_override_config() -> None:
    assert join({"lora": {"rank": 8}, "data": {"train": ["a"]}}).lora.rank == 8


def test_joining_does_not_change_its_input() -> None:
    config = {"lora": {"alpha": 8}}
    join(config, lora_rank=4)
    assert config == {"lora": {"alpha": 8}}
