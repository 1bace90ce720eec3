"""Scores and corpus statistics on signals made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config.judging import ScoreMethod
from ytrainer_core.errors import YTrainerError
from ytrainer_core.scoring import scores
from ytrainer_core.scoring.scores import (
    MEASURES,
    SCORES,
    Anomalies,
    Answer,
    CorpusStatistics,
    RowView,
    corpus_statistics,
    row_scores,
    smooth,
    z_scores,
)
from ytrainer_core.scoring.signals import RowSignals

CORPUS = CorpusStatistics(1.0, 1.0, 1.0, 1.0, most_uncertain=4.0)


def signals(nll: list[float], entropy: list[float], first: int = 1, **more: Any) -> RowSignals:
    count = len(nll)
    return RowSignals(
        np.asarray(nll, np.float32),
        np.asarray(entropy, np.float32),
        np.zeros(count, np.int64),
        np.arange(first, first + count),
        **more,
    )


def view(
    nll: list[float],
    entropy: list[float] | None = None,
    *,
    corpus: CorpusStatistics = CORPUS,
    ends: list[int] | None = None,
    free: list[float] | None = None,
) -> RowView:
    answer = Answer(
        np.asarray(nll, float),
        np.zeros(len(nll)) if entropy is None else np.asarray(entropy, float),
        np.asarray(ends or [len(nll) - 1]),
        None if free is None else np.asarray(free, float),
    )
    calm = Anomalies(np.zeros(len(nll), bool), np.zeros(len(nll)))
    return RowView(answer, calm, calm, corpus)


def test_every_score_that_the_config_names_is_there_and_no_other() -> None:
    assert set(SCORES) == set(ScoreMethod.__args__)  # type: ignore[attr-defined]


def test_the_statistics_are_over_all_tokens_of_the_corpus() -> None:
    found = corpus_statistics([signals([1, 3], [0, 0]), signals([5, 7, 9], [0, 0, 5])])
    assert (found.nll_mean, found.nll_std) == pytest.approx((5, math.sqrt(8)))
    assert (found.entropy_mean, found.entropy_std) == pytest.approx((1, 2))


def test_the_statistics_read_the_corpus_once() -> None:
    def stream() -> Iterator[RowSignals]:
        yield signals([1, 3], [0, 0])
        yield signals([], [])
        yield signals([5, 7, 9], [0, 0, 5])

    assert corpus_statistics(stream()) == corpus_statistics(list(stream()))


def test_many_batches_give_the_moments_of_all_values_together() -> None:
    """Far from zero, where squares minus the squared mean would lose every digit."""
    values = 1e6 + np.random.default_rng(0).normal(size=500)
    found = corpus_statistics(
        RowSignals(row, np.zeros(10), np.zeros(10, np.int64), np.arange(10))  # type: ignore[arg-type]
        for row in values.reshape(50, 10)
    )
    assert found.nll_mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.nll_std == pytest.approx(values.std(), rel=1e-9)


def test_the_measures_are_over_rows_not_tokens() -> None:
    """mean nll of the rows 2 and 5; a long row counts no more than a short one."""
    found = corpus_statistics([signals([1, 3], [0, 0]), signals([5] * 10, [0] * 10)])
    assert found.measures["mean_nll"] == pytest.approx((3.5, 1.5))
    assert set(found.measures) == set(MEASURES)


def test_the_greatest_uncertainty_is_that_of_the_vocabulary_or_else_the_greatest_seen() -> None:
    rows = [signals([1], [0.5]), signals([1, 1], [2, 1])]
    assert corpus_statistics(rows, vocabulary=100).most_uncertain == pytest.approx(math.log(100))
    assert corpus_statistics(rows).most_uncertain == 2


def test_a_corpus_without_targets_has_statistics_of_zero() -> None:
    assert corpus_statistics([signals([], [])]).nll_std == 0
    assert corpus_statistics([]).measures == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_named_not_scored(value: float) -> None:
    with pytest.raises(YTrainerError, match=r"model\.dtype=float32"):
        corpus_statistics([signals([1, value], [0, 0])])


def test_every_answer_of_a_row_has_an_end() -> None:
    """Two answers, at positions 3-5 and 9-10."""
    row = RowSignals(
        np.zeros(5, np.float32),
        np.zeros(5, np.float32),
        np.zeros(5, np.int64),
        np.array([3, 4, 5, 9, 10]),
    )
    assert Answer.of(row).ends.tolist() == [2, 4]


@pytest.mark.parametrize(
    "values, window, smoothed",
    [
        ([0, 3, 0, 0], 3, [1.5, 1, 1, 0]),  # at the ends over the two that there are
        ([0, 3, 0, 0], 1, [0, 3, 0, 0]),
        ([1, 2, 3, 4, 5], 5, [2, 2.5, 3, 3.5, 4]),
        ([4], 3, [4]),
    ],
)
def test_smoothing_is_a_centred_average(
    values: list[float], window: int, smoothed: list[float]
) -> None:
    assert smooth(np.asarray(values, float), window) == pytest.approx(smoothed)


def test_z_scores_are_zero_where_nothing_deviates() -> None:
    assert z_scores(np.array([3.0, 5.0]), 3.0, 2.0).tolist() == [0.0, 1.0]
    assert z_scores(np.array([3.0, 3.0]), 3.0, 0.0).tolist() == [0.0, 0.0]


def test_an_anomaly_is_the_divergence_of_abnormal_tokens_per_token() -> None:
    found = Anomalies(np.array([True, False, True, False]), np.array([3.0, 9, -1, 9]))
    assert found.share == pytest.approx((3 + 1) / 4)


def test_the_mean_loss_is_the_mean_of_the_losses() -> None:
    assert scores.mean_loss(view([1, 2, 6])) == pytest.approx(3)


def test_a_certain_loss_is_a_loss_without_entropy() -> None:
    """Windows of five; ln V is 4, so an entropy of 2 halves a loss, and one of 4 cancels it."""
    assert scores.certain_loss(view([0] * 5 + [10] * 5)) == pytest.approx(10)
    assert scores.certain_loss(view([0] * 5 + [10] * 5, [2.0] * 10)) == pytest.approx(5)
    assert scores.certain_loss(view([10] * 5, [4.0] * 5)) == pytest.approx(0)
    assert scores.certain_loss(view([0] * 5 + [10] + [0] * 5)) == pytest.approx(2)


def test_surprise_is_the_loss_beyond_the_entropy_in_the_worst_place() -> None:
    window = scores.SURPRISE_WINDOW
    nll, entropy = [1.0] * 4 + [6.0] * window + [1.0] * 4, [1.0] * (8 + window)
    assert scores.surprise(view(nll, entropy)) == pytest.approx(5)
    assert scores.surprise(view([9.0] * 8, [9.0] * 8)) == pytest.approx(0)  # hard, and known so


def test_the_ending_is_the_surprise_where_an_answer_ends() -> None:
    assert scores.ending(view([9, 9, 4], [0, 0, 1])) == pytest.approx(3)
    assert scores.ending(view([7, 0, 4], [0, 0, 1], ends=[0, 2])) == pytest.approx(7)


def test_the_opening_is_the_surprise_where_an_answer_begins() -> None:
    """Two answers: of the first 16 tokens of the one, of all two of the other."""
    opening = scores.OPENING_TOKENS
    row = view([3.0] * opening + [9.0] * 4, [1.0] * (opening + 4))
    assert scores.opening(row) == pytest.approx(2)
    both = view([3.0] * opening + [9.0] * 4 + [5.0, 4.0], ends=[opening + 3, opening + 5])
    assert scores.opening(both) == pytest.approx(4.5)
    assert scores.opening(view([2.0, 6.0])) == pytest.approx(4)


def test_ifd_is_the_ratio_of_the_perplexities() -> None:
    row = view([1, 2], free=[1 + math.log(2), 2 + math.log(2)])
    assert scores.ifd(row) == pytest.approx(1 / 2)
    assert scores.ifd(view([1, 2], free=[1, 2])) == pytest.approx(1)


def test_ifd_is_left_out_where_the_loss_without_the_prompt_is_unknown() -> None:
    assert "ifd" not in row_scores(view([1, 2]))
    assert set(row_scores(view([1, 2], free=[1, 2]))) == set(SCORES)


def test_the_least_self_confidence_is_that_of_the_worst_token() -> None:
    assert scores.self_confidence_min(view([1, 7, 2])) == pytest.approx(7)


def test_the_softmin_weighs_tokens_by_how_improbable_they_are() -> None:
    """p is 0.1 and 0.15; T = 0.05, so the second weighs exp(-1) of the first."""
    weight = math.exp(-1)
    softmin = (0.1 + 0.15 * weight) / (1 + weight)
    row = view([-math.log(0.1), -math.log(0.15)])
    assert scores.self_confidence_softmin(row) == pytest.approx(-math.log(softmin))
    assert scores.self_confidence_softmin(view([3.0] * 9)) == pytest.approx(3)


def test_combined_adds_up_how_far_a_row_stands_out_by_each_measure() -> None:
    """z is 2 for the mean loss, 1 for the end, 4 for the opening, 3 for the worst token, below 0
    for the worst word; a phrase is unknown."""
    measures = {
        "mean_nll": (1, 0.5),
        "peak_nll": (0.5, 0.5),
        "peak_surprise": (9, 1),
        "opening_surprise": (0, 0.5),
        "end_surprise": (1, 1),
    }
    corpus = CorpusStatistics(0, 1, 0, 1, measures=measures)
    assert scores.combined(view([2, 2], corpus=corpus)) == pytest.approx(2 + 3 + 0 + 4 + 1)


def test_combined_looks_at_the_prompt_only_where_it_was_asked_for() -> None:
    """ln ifd is 0.5, the corpus's 0 with deviation 0.25."""
    corpus = CorpusStatistics(0, 1, 0, 1, measures={"log_ifd": (0, 0.25)})
    assert scores.combined(view([2, 2], free=[1.5, 1.5], corpus=corpus)) == pytest.approx(2)
    assert scores.combined(view([2, 2], corpus=corpus)) == 0
    rows = [signals([2, 2], [0, 0])]
    assert "log_ifd" not in corpus_statistics(rows).measures
    asked = [replace(row, free_nll=np.array([1, 2], np.float32)) for row in rows]
    assert corpus_statistics(asked).measures["log_ifd"] == pytest.approx((0.5, 0))


def test_the_worst_phrase_is_one_of_several_tokens() -> None:
    window = scores.PHRASE_WINDOW
    row = signals([0.0] * 9 + [3.0] * window + [0.0] * 9, [1.0] * (18 + window))
    assert scores.phrase_surprise(Answer.of(row)) == pytest.approx(2)


def test_rows_that_are_all_alike_are_alike_in_every_score() -> None:
    rows = [signals([2, 3, 1], [1, 1, 1])] * 4
    corpus = corpus_statistics(rows, vocabulary=50)
    found = [row_scores(view([2, 3, 1], [1, 1, 1], corpus=corpus)) for _ in rows]
    assert found[0] == found[-1] and found[0]["combined"] == 0


@pytest.mark.parametrize("tokens", [1, 2, 3, 50])
@pytest.mark.parametrize("nll", [0.0, 1e-8, 2.0, 80.0, 1e4])
def test_every_score_of_every_length_is_finite(tokens: int, nll: float) -> None:
    for entropy in (0.0, 2.0):
        row = signals([nll] * tokens, [entropy] * tokens)
        corpus = corpus_statistics([row])
        found = row_scores(
            view([nll] * tokens, [entropy] * tokens, corpus=corpus, free=[nll] * tokens)
        )
        assert all(math.isfinite(score) for score in found.values()), found
