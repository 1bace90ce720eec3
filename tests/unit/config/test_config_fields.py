"""What the fields promise: descriptions, bounds, and rules between fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ytrainer_core.config import (
    STAGE_CONFIGS,
    FinetuneConfig,
    NlirgConfig,
    OptimConfig,
    PretrainConfig,
    SftConfig,
    TrainConfig,
    default_of,
    dump_json,
    walk_fields,
)
from ytrainer_core.config.training import ArchitectureConfig

KNOBS = sorted(
    {
        (model.__name__, name, field.description)
        for model in [*STAGE_CONFIGS.values(), FinetuneConfig]
        for name, field in walk_fields(model)
    },
    key=str,
)


def test_every_knob_of_every_stage_has_a_description() -> None:
    undescribed = [f"{model}.{name}" for model, name, description in KNOBS if not description]
    assert undescribed == [] and len(KNOBS) > 100


@pytest.mark.parametrize("model", [*STAGE_CONFIGS.values(), FinetuneConfig])
def test_the_saved_config_reads_back_equal(model: Any) -> None:
    config = model(seed=3)
    assert model.model_validate_json(dump_json(config)) == config


def test_configs_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValidationError):
        SftConfig().seed = 1


def test_default_of_a_knob_is_the_stages_own_default() -> None:
    assert default_of(SftConfig, "optim.adam_beta1") == 0.9
    assert default_of(SftConfig, "data.train") == ()
    with pytest.raises(KeyError):
        default_of(SftConfig, "optim.nonsense")


def test_pretraining_has_defaults_of_its_own() -> None:
    config = PretrainConfig()
    assert (config.objective.name, config.optim.learning_rate) == ("cross_entropy", 2e-3)


@pytest.mark.parametrize("end, allowed", [(0.0, True), (9e-5, True), (1e-4, False), (2e-4, False)])
def test_a_polynomial_schedule_must_end_below_its_peak(end: float, allowed: bool) -> None:
    def make() -> OptimConfig:
        return OptimConfig(lr_scheduler="polynomial", learning_rate=1e-4, end_learning_rate=end)

    if allowed:
        assert make().end_learning_rate == end
    else:
        with pytest.raises(ValidationError, match="must be smaller than"):
            make()


@pytest.mark.parametrize(
    "arms, allowed",
    [
        ({"easy_midpoint": 3.0}, True),
        ({"easy_midpoint": 3.1}, False),
        ({"arm_boundary": 14.9}, True),
        ({"arm_boundary": 15.0}, False),
    ],
)
def test_the_arms_of_nlirg_must_lie_in_order(arms: dict[str, float], allowed: bool) -> None:
    if allowed:
        NlirgConfig(**arms)
    else:
        with pytest.raises(ValidationError, match="must hold"):
            NlirgConfig(**arms)


@pytest.mark.parametrize(
    "model, values",
    [
        (OptimConfig, {"learning_rate": float("nan")}),
        (OptimConfig, {"learning_rate": float("inf")}),
        (OptimConfig, {"adam_beta2": 1.0}),
        (TrainConfig, {"save_total_limit": 1}),
        (TrainConfig, {"per_device_batch_size": 0}),
        (TrainConfig, {"pack_length": 1}),
        (TrainConfig, {"pack_length": -1}),
        (ArchitectureConfig, {"vocab_size": 258}),
        (SftConfig, {"seed": 2**32}),
        (SftConfig, {"seed": -1}),
    ],
)
def test_what_no_run_could_use_is_refused(model: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**values)
