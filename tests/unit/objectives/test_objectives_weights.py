"""What each objective gives a token, at values computed by hand from its formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives import OBJECTIVES, Tokens, base_weights, token_weights

LN2 = math.log(2)


def weights(name: str, nll: Sequence[float], **more: object) -> list[float]:
    """Weights of tokens with these losses; more: fields of Tokens, or the objective's section."""
    fields = {k: more.pop(k) for k in ("top_entropy", "median_nll", "given") if k in more}
    tokens = Tokens(torch.tensor(nll), **{k: torch.tensor(v) for k, v in fields.items()})
    return token_weights(tokens, ObjectiveConfig(name=name, **more)).tolist()


def test_every_objective_that_a_config_may_name_exists() -> None:
    assert set(OBJECTIVES) == set(ObjectiveConfig.model_fields["name"].annotation.__args__)


def test_cross_entropy_gives_every_token_one() -> None:
    assert weights("cross_entropy", [0.0, 1.0, 20.0]) == [1, 1, 1]


@pytest.mark.parametrize("name", ["dft", "asft"])
def test_dft_and_asft_give_a_token_its_probability(name: str) -> None:
    assert weights(name, [0.0, LN2, math.log(4)]) == pytest.approx([1, 0.5, 0.25])


def test_focal_gives_one_minus_the_probability_to_the_power_of_gamma() -> None:
    nll = [0.0, LN2, math.log(4)]
    assert weights("focal", nll) == pytest.approx([0, 0.25, 0.5625])
    assert weights("focal", nll, focal={"gamma": 1}) == pytest.approx([0, 0.5, 0.75])
    assert weights("focal", nll, focal={"gamma": 0}) == [1, 1, 1]


def test_focal_of_a_loss_that_rounding_made_negative_is_a_number() -> None:
    assert weights("focal", [-1e-6], focal={"gamma": 0.5}) == [0]


def test_eaft_gives_the_entropy_of_the_likeliest_over_the_scale() -> None:
    entropies = {"top_entropy": [0.0, 1.5, 3.0]}
    assert weights("eaft", [1.0] * 3, **entropies) == pytest.approx([0, 0.5, 1])
    squared = {"power": 2.0, "entropy_scale": 1.5}
    assert weights("eaft", [1.0] * 3, **entropies, eaft=squared) == pytest.approx([0, 1, 4])


def test_eaft_of_an_entropy_that_rounding_made_negative_is_a_number() -> None:
    assert weights("eaft", [1.0], top_entropy=[-1e-8], eaft={"power": 0.5}) == [0]


def test_talr_gives_the_probability_to_the_power_of_one_over_the_median() -> None:
    """exp(-2 / 2), exp(-4 / 2), and exp(-20 / 2) = 4.5e-5, which is under the floor."""
    found = weights("talr", [0.0, 2.0, 4.0, 20.0], median_nll=2.0)
    assert found == pytest.approx([1, 0.36788, 0.13534, 0.01], abs=1e-5)
    assert weights("talr", [20.0], median_nll=2.0, talr={"floor": 0.0}) == pytest.approx(
        [4.54e-5], rel=1e-4
    )


def test_talr_of_a_batch_that_is_known_by_heart_is_a_number() -> None:
    assert weights("talr", [0.0, 1.0], median_nll=0.0) == pytest.approx([1, 0.01])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_weights_given_beforehand_multiply_those_of_every_objective(name: str) -> None:
    known = {"top_entropy": [1.0, 2.0, 2.5], "median_nll": 1.0}
    plain = weights(name, [0.5, 2.0, 4.0], **known)
    scaled = weights(name, [0.5, 2.0, 4.0], **known, given=[1.0, 0.5, 0.0])
    assert scaled == pytest.approx([plain[0], plain[1] / 2, 0])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_objective_fails_on_a_batch_without_targets(name: str) -> None:
    known = {"top_entropy": [], "median_nll": 1.0}
    assert weights(name, [], **known) == []


@pytest.mark.parametrize("name", ["flow", "stm"])
def test_flow_and_stm_weigh_by_what_was_given_alone(name: str) -> None:
    assert OBJECTIVES[name].base_nll
    assert weights(name, [0.1, 9.0], given=[0.3, 0.7]) == pytest.approx([0.3, 0.7])


def rows(*nll: Sequence[float]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.float32) for row in nll]


def test_flow_weighs_a_row_by_its_mean_loss_under_the_base_over_the_median_of_the_rows() -> None:
    """Means 1, 2 and 6, median 2: exp(-1/2), exp(-1), exp(-3)."""
    found = base_weights(rows([0, 2], [2], [6, 6, 6]), ObjectiveConfig(name="flow"))
    assert [row.tolist() for row in found] == [
        pytest.approx([0.60653] * 2, abs=1e-5),
        pytest.approx([0.36788], abs=1e-5),
        pytest.approx([0.04979] * 3, abs=1e-5),
    ]
    assert all(row.dtype == np.float32 for row in found)


def test_flow_takes_the_temperature_of_the_config() -> None:
    config = ObjectiveConfig(name="flow", flow={"temperature": 4.0})
    assert base_weights(rows([4.0], [8.0]), config)[0].tolist() == pytest.approx(
        [0.36788], abs=1e-5
    )


def test_flow_leaves_rows_without_targets_out_of_the_median() -> None:
    found = base_weights(rows([], [2.0], []), ObjectiveConfig(name="flow"))
    assert [len(row) for row in found] == [0, 1, 0]
    assert found[1].item() == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("corpus", [[], [[]], [[0.0], [0.0]]])
def test_flow_of_a_corpus_without_any_loss_has_weights_of_one(corpus: list[list[float]]) -> None:
    for row in base_weights(rows(*corpus), ObjectiveConfig(name="flow")):
        assert (row == 1).all()


def test_stm_masks_tokens_whose_perplexity_under_the_base_is_too_high() -> None:
    """ln 2.5 = 0.9163; exp(800) overflows and is masked all the same."""
    found = base_weights(rows([0.0, 0.916, 0.917, 800.0], []), ObjectiveConfig(name="stm"))
    assert found[0].tolist() == [1, 1, 0, 0] and found[1].shape == (0,)
    strict = ObjectiveConfig(name="stm", stm={"max_perplexity": 1.0})
    assert base_weights(rows([0.0, 0.01]), strict)[0].tolist() == [1, 0]


def test_an_objective_that_does_not_look_at_the_base_has_no_weights_from_it() -> None:
    with pytest.raises(ValueError, match="nlirg"):
        base_weights([], ObjectiveConfig(name="nlirg"))
