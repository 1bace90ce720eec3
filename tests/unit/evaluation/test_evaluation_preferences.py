"""How far a model prefers what was liked: hand-computed values, and errors that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ytrainer_core.evaluation.intervals import Floats, RowValues, estimate
from ytrainer_core.evaluation.preferences import Preferences, answer_logps, preference_scores

Make = Callable[..., Any]


def scores(ratios: Any, liked: Any, paired: bool = False) -> dict[str, RowValues]:
    return preference_scores(np.asarray(ratios), np.asarray(liked), paired=paired)


def values(ratios: Any, liked: Any, paired: bool = False) -> tuple[float, float]:
    found = scores(ratios, liked, paired)
    return found["preference_accuracy"].value, found["preference_margin"].value


def test_of_rows_with_a_label_all_liked_ones_are_compared_with_all_disliked_ones() -> None:
    liked = [True, False, True, False, False]
    # liked 2 and -1, disliked 0, -1 and -3: 3 of 3 below, then one below and one equal
    accuracy, margin = values([2.0, 0.0, -1.0, -1.0, -3.0], liked)
    assert accuracy == pytest.approx((3 + 1.5) / 6)
    assert margin == pytest.approx(0.5 + 4 / 3)


def test_a_pair_is_compared_with_itself_alone() -> None:
    accuracy, margin = values([5.0, 4.0, -6.0, -8.0, 1.0, 1.0, 0.0, 3.0], [True, False] * 4, True)
    assert accuracy == (1 + 1 + 0.5 + 0) / 4
    assert margin == pytest.approx((1 + 2 + 0 - 3) / 4)


@pytest.mark.parametrize(
    ("liked", "disliked", "share"),
    [([3.0, 1.0], [0.0, 2.0], 0.75), ([1.0], [1.0], 0.5), ([0.0, 0.0], [1.0], 0.0)],
)
def test_accuracy_is_the_share_of_pairs_in_the_right_order_and_ties_count_half(
    liked: list[float], disliked: list[float], share: float
) -> None:
    kinds = [True] * len(liked) + [False] * len(disliked)
    assert values(liked + disliked, kinds)[0] == share


@pytest.mark.parametrize("paired", [False, True])
def test_without_one_kind_there_is_nothing_to_compare(paired: bool) -> None:
    assert np.isnan(values([1.0], [True], paired)).all()


@pytest.mark.parametrize("paired", [False, True])
def test_a_model_that_is_its_base_prefers_nothing(paired: bool) -> None:
    assert values([0.0] * 6, [True, False] * 3, paired) == (0.5, 0.0)


def test_one_order_of_all_answers_leaves_no_doubt_about_the_accuracy() -> None:
    found = estimate(scores([3, 2, 1, -1], [True, True, True, False])["preference_accuracy"])
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_the_interval_of_pseudo_values_is_that_of_drawing_both_kinds_anew() -> None:
    random = np.random.default_rng(0)
    liked = np.arange(300) % 4 == 0
    ratios = random.normal(np.where(liked, 1.0, 0.2), 1.5)
    found = scores(ratios, liked)
    drawn = np.array([_drawn_anew(ratios[liked], ratios[~liked], random) for _ in range(2000)])
    for name, statistic in zip(("preference_accuracy", "preference_margin"), drawn.T, strict=True):
        of_rows = estimate(found[name], resamples=2000)
        low, high = np.quantile(statistic, [0.025, 0.975])
        width = high - low
        assert of_rows.low == pytest.approx(low, abs=0.08 * width)
        assert of_rows.high == pytest.approx(high, abs=0.08 * width)


def _drawn_anew(liked: Floats, disliked: Floats, random: np.random.Generator) -> list[float]:
    some, others = random.choice(liked, len(liked)), random.choice(disliked, len(disliked))
    return [float((some[:, None] > others[None, :]).mean()), float(some.mean() - others.mean())]


def test_an_answer_counts_with_all_of_its_tokens_and_none_of_its_prompt(
    make_model: Make, make_rows: Make, plain_signals: Make
) -> None:
    model, rows = make_model(), make_rows([9, 20, 12])
    asked = Preferences(rows, np.array([True, False, True]), paired=False)
    found = answer_logps(model, asked, max_length=32, batch_tokens=64)
    wanted = [-plain_signals(model, row)[0].sum().item() for row in rows]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
