"""Weights of liked and disliked rows: (weight x number) liked : disliked between 1:1 and 4:3."""

from __future__ import annotations

import pytest

from ytrainer_core.config import PreferenceConfig
from ytrainer_core.preference.weights import class_weights


@pytest.mark.parametrize(
    ("liked", "disliked", "weights"),
    [
        (100, 100, (1.0, 1.0)),
        (120, 100, (1.0, 1.0)),  # 1.2 is within the band
        (50, 100, (2.0, 1.0)),
        (200, 100, (1.0, 1.5)),  # 200 : 150 is 4 : 3
        (10, 1000, (100.0, 1.0)),
    ],
)
def test_the_rarer_kind_is_raised_as_little_as_the_band_needs(
    liked: int, disliked: int, weights: tuple[float, float]
) -> None:
    assert class_weights(PreferenceConfig(), liked, disliked) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ({"desirable_weight": 3.0, "undesirable_weight": 0.5}, (3.0, 0.5)),
        ({"desirable_weight": 1.0}, (1.0, 1.5)),
        ({"desirable_weight": 0.6}, (0.6, 1.0)),  # 120 : 100 is within the band
        ({"desirable_weight": 0.1}, (0.1, 0.2)),
        ({"undesirable_weight": 1.0}, (2 / 3, 1.0)),
        ({"undesirable_weight": 4.0}, (2.0, 4.0)),
    ],
)
def test_what_is_given_stays_and_the_other_follows(
    given: dict[str, float], weights: tuple[float, float]
) -> None:
    assert class_weights(PreferenceConfig(**given), 200, 100) == pytest.approx(weights)
