"""How much a liked and a disliked answer weigh, so that neither kind drowns the other."""

from __future__ import annotations

from ytrainer_core.config import PreferenceConfig

BAND = (1.0, 4 / 3)
"""Advised bounds of (weight x number) of the liked rows over that of the disliked ones
(arXiv 2402.01306, eq. 8)."""


def class_weights(config: PreferenceConfig, liked: int, disliked: int) -> tuple[float, float]:
    """(weight of liked rows, of disliked rows); a weight of the config above 0 is taken as given.

    liked, disliked: numbers of rows, above 0. Of two automatic weights the rarer kind's is raised
    as little as brings the ratio into `BAND`, and the other is 1; of one, it is the value nearest
    to 1 that does.
    """
    desirable, undesirable = config.desirable_weight, config.undesirable_weight
    low, high = BAND
    if desirable and undesirable:
        return desirable, undesirable
    if desirable:
        most = desirable * liked / (low * disliked)
        return desirable, _clip(1.0, desirable * liked / (high * disliked), most)
    if undesirable:
        least = low * undesirable * disliked / liked
        return _clip(1.0, least, high * undesirable * disliked / liked), undesirable
    ratio = liked / disliked
    return max(1.0, low / ratio), max(1.0, ratio / high)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
