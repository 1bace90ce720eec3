"""The NLIRG curve, at values computed by hand from its formula."""

from __future__ import annotations

import math

import pytest
import torch

from ytrainer_core.config import NlirgConfig, ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES, Tokens
from ytrainer_core.objectives.nlirg import nlirg_weights


def weight(nll: float, **constants: float | str) -> float:
    return nlirg_weights(torch.tensor([nll]), NlirgConfig(**constants)).item()


@pytest.mark.parametrize(
    "nll, expected",
    [
        (0.0, 0.1151),  # 1 / (1 + e^2.04)
        (1.2, 0.5),
        (3.0, 0.9552),  # the boundary belongs to the easy arm: 1 / (1 + e^-3.06)
        (3.001, 0.9608),  # just beyond it the hard arm holds: 1 / (1 + e^-3.199)
        (6.2, 0.5),
        (8.0, 0.1419),
        (10.0, 0.0219),
        (14.99, 0.000152),  # 1 / (1 + e^8.79)
    ],
)
def test_the_published_weights(nll: float, expected: float) -> None:
    assert weight(nll) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("nll", [15.0, 15.001, 100.0, math.inf])
def test_a_hopeless_token_weighs_exactly_nothing(nll: float) -> None:
    assert weight(nll) == 0.0


@pytest.mark.parametrize(
    "nll, expected",
    [
        (0.0, 0.0),
        (1.2, 0.4350),  # (0.5 - 0.115067) / (1 - 0.115067)
        (3.0, 0.9494),  # (0.955212 - 0.115067) / (1 - 0.115067)
        (6.2, 0.5),  # the hard arm is as it was
    ],
)
def test_the_easy_floor_can_be_shifted_to_zero(nll: float, expected: float) -> None:
    assert weight(nll, easy_floor="zero") == pytest.approx(expected, abs=5e-5)


def test_no_weight_is_negative_where_rounding_makes_a_loss_negative() -> None:
    """logsumexp minus a logit may come out at -1e-7 for a token that is certain."""
    assert weight(-1e-6, easy_floor="zero") >= 0.0


def test_the_hard_arm_never_falls_below_its_floor_before_the_cutoff() -> None:
    """1 / (1 + e^46.4) is 7e-21; with the epsilon of the published formula 1.19e-7."""
    assert weight(14.0, hard_slope=6.0) == pytest.approx(1.19e-7, rel=0.01)
    assert weight(14.0, hard_slope=6.0, hard_floor=1e-3) == pytest.approx(1e-3)


def test_every_constant_moves_the_curve() -> None:
    assert weight(2.0, easy_midpoint=2.0) == pytest.approx(0.5, abs=1e-6)
    assert weight(0.2, easy_slope=1.0) == pytest.approx(0.2689, abs=5e-5)  # 1 / (1 + e)
    assert weight(9.0, hard_midpoint=9.0) == pytest.approx(0.5, abs=1e-6)
    assert weight(7.2, hard_slope=2.0) == pytest.approx(0.1192, abs=5e-5)  # 1 / (1 + e^2)
    assert weight(3.5, arm_boundary=4.0) == pytest.approx(0.9804, abs=5e-5)  # 1 / (1 + e^-3.91)
    assert weight(9.0, cutoff=9.0) == 0.0


def test_nan_stays_visible_in_the_loss_without_asking_the_device() -> None:
    nll = torch.tensor([1.0, math.nan])
    assert (nll * nlirg_weights(nll, NlirgConfig())).sum().isnan()


def test_the_shape_is_kept_and_an_empty_batch_is_allowed() -> None:
    assert nlirg_weights(torch.ones(2, 3), NlirgConfig()).shape == (2, 3)
    assert nlirg_weights(torch.ones(0), NlirgConfig()).shape == (0,)


def test_the_objective_takes_its_constants_from_the_config() -> None:
    tokens = Tokens(torch.tensor([0.0, 1.2, 20.0]))
    config = ObjectiveConfig(nlirg=NlirgConfig(easy_midpoint=0.0))
    found = OBJECTIVES["nlirg"].weigh(tokens, config).tolist()
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1.7 * 1.2)), 0.0], abs=1e-6)
