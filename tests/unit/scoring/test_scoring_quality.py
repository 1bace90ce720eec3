"""Patterns, spans and scores on signals made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import ScoreConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.scoring.quality import (
    PATTERNS,
    CorpusStatistics,
    RowQuality,
    corpus_statistics,
    row_quality,
)
from ytrainer_core.scoring.scores import SCORES
from ytrainer_core.scoring.signals import RowSignals

CORPUS = CorpusStatistics(nll_mean=1.0, nll_std=1.0, entropy_mean=1.0, entropy_std=1.0)


def signals(nll: list[float], entropy: list[float]) -> RowSignals:
    count = len(nll)
    return RowSignals(
        np.asarray(nll, np.float32),
        np.asarray(entropy, np.float32),
        np.zeros(count, np.int64),
        np.arange(1, count + 1),
    )


def judge(nll: list[float], entropy: list[float], **config: Any) -> RowQuality:
    settings = {"method": "anomaly", "smoothing_window": 1, "spans": "published"} | config
    return row_quality(signals(nll, entropy), CORPUS, ScoreConfig(**settings))


def patterns(quality: RowQuality) -> list[str]:
    return [PATTERNS[i] for i in quality.patterns]


def test_sure_and_wrong_is_a_confident_error() -> None:
    """nll: mean 2, deviation 4, z of the last 2; entropy: mean 0.8, deviation 0.4, z -2."""
    quality = judge([0, 0, 0, 0, 10], [1, 1, 1, 1, 0])
    assert patterns(quality) == ["normal"] * 4 + ["confident_error"]
    assert quality.score == pytest.approx(4 / 5)  # |2 - (-2)| over five tokens
    assert quality.spans == [(4, 5)]
    assert (quality.mean_nll, quality.mean_entropy) == (2.0, pytest.approx(0.8))


def test_unsure_and_wrong_is_hard_and_no_divergence() -> None:
    quality = judge([0, 0, 0, 0, 10], [0, 0, 0, 0, 1])
    assert patterns(quality) == ["normal"] * 4 + ["hard"]
    assert quality.score == pytest.approx(0) and quality.spans == []


def test_unsure_and_right_is_lucky_and_does_not_raise_the_score() -> None:
    quality = judge([10, 10, 10, 10, 0], [0, 0, 0, 0, 1])
    assert patterns(quality) == ["normal"] * 4 + ["lucky"]
    assert quality.score == 0 and quality.spans == []


def test_above_the_mean_and_very_sure_is_suspicious() -> None:
    """nll: mean 5.2, deviation 4.49, z of the last 0.178; entropy z -2: divergence 2.178."""
    quality = judge([0, 10, 0, 10, 6], [1, 1, 1, 1, 0])
    assert patterns(quality) == ["normal"] * 4 + ["suspicious"]
    assert quality.score == pytest.approx(2.178 / 5, abs=1e-4)
    assert quality.spans == [(4, 5)]


def test_below_the_mean_and_very_sure_is_normal() -> None:
    assert patterns(judge([0, 10, 0, 10, 5], [1, 1, 1, 1, 0])) == ["normal"] * 5


def test_adjacent_abnormal_tokens_are_one_span_and_the_most_severe_comes_first() -> None:
    """nll: mean 2.2; z_entropy -1.53 at the three abnormal tokens of ten."""
    nll = [0, 0, 6, 6, 0, 0, 0, 10, 0, 0]
    entropy = [1, 1, 0, 0, 1, 1, 1, 0, 1, 1]
    quality = judge(nll, entropy)
    assert [i for i, p in enumerate(patterns(quality)) if p == "confident_error"] == [2, 3, 7]
    assert quality.spans == [(7, 8), (2, 4)]


def test_a_span_is_kept_from_its_threshold_on() -> None:
    """Divergence 4 at the peak."""
    row = ([0, 0, 0, 0, 10], [1, 1, 1, 1, 0])
    assert judge(*row, span_divergence=3.999).spans == [(4, 5)]
    assert judge(*row, span_divergence=4.001).spans == []


def test_surprising_tokens_side_by_side_are_one_span_and_three_are_shown() -> None:
    """Surprise: 5 and 4 together, 7, 3, 2.5; 2 is not above the threshold."""
    nll = [5, 5, 0, 7, 0, 3, 0, 2, 0, 2.5]
    entropy = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert judge(nll, entropy, spans="surprise").spans == [(0, 2), (3, 4), (5, 6)]
    assert judge(nll, entropy, spans="surprise", span_surprise=6).spans == [(3, 4)]
    assert judge([9.0, 9.0], [9.0, 9.0], spans="surprise").spans == []  # hard, and known so


def test_the_threshold_of_an_abnormal_token_is_a_knob() -> None:
    row = ([0, 0, 0, 0, 10], [1, 1, 1, 1, 0])
    assert "confident_error" in patterns(judge(*row, abnormal_z=1.99))
    assert "confident_error" not in patterns(judge(*row, abnormal_z=2.01))


def test_smoothing_comes_before_the_z_scores() -> None:
    """A single outlier is spread over three tokens."""
    quality = judge([0, 0, 0, 10, 0, 0, 0], [1, 1, 1, 0, 1, 1, 1], smoothing_window=3)
    assert [i for i, p in enumerate(patterns(quality)) if p == "confident_error"] == [2, 3, 4]


@pytest.mark.parametrize("tokens, expected", [(3, 3.0), (4, 0.0)])
def test_a_short_row_is_measured_against_the_corpus(tokens: int, expected: float) -> None:
    """All tokens alike: z 2 and -1 against the corpus, no deviation within the row."""
    quality = judge([3.0] * tokens, [0.0] * tokens, min_tokens=4)
    assert quality.score == pytest.approx(expected)


def test_against_the_corpus_a_row_that_is_all_bad_stands_out() -> None:
    """All tokens alike: nothing within the row; z 7 and -1 against the corpus at every token."""
    quality = judge([8.0] * 6, [0.0] * 6, method="corpus_anomaly")
    assert quality.score == pytest.approx(8)
    assert quality.scores["anomaly"] == 0


def test_the_score_is_that_of_the_method_and_all_others_are_told_too() -> None:
    quality = judge([1, 1, 4], [1, 1, 1], method="mean_loss")
    assert quality.score == quality.scores["mean_loss"] == pytest.approx(2)
    assert set(quality.scores) == set(SCORES) - {"ifd"}


def test_ifd_without_the_second_pass_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"score\.ifd=true"):
        judge([1, 2, 3], [1, 1, 1], method="ifd")


@pytest.mark.parametrize("method", sorted(SCORES))
def test_a_row_without_targets_has_score_zero(method: str) -> None:
    quality = judge([], [], method=method)
    assert (quality.score, quality.spans, len(quality.patterns)) == (0.0, [], 0)


def test_a_corpus_of_one_row_can_be_scored() -> None:
    row = signals([1, 9, 1, 1], [1, 0, 1, 1])
    quality = row_quality(row, corpus_statistics([row]), ScoreConfig())
    assert all(math.isfinite(score) for score in quality.scores.values())


@pytest.mark.parametrize("method", sorted(set(SCORES) - {"ifd"}))
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6])
def test_every_length_has_a_finite_score(method: str, tokens: int) -> None:
    quality = judge(list(range(tokens)), [1.0] * tokens, method=method, smoothing_window=3)
    assert math.isfinite(quality.score) and len(quality.patterns) == tokens
