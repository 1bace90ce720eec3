"""A corpus judged row by row: scores in columns, and which rows are flagged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import ScoreConfig
from ytrainer_core.scoring.judged import JudgedCorpus, flag_threshold, judge_corpus
from ytrainer_core.scoring.quality import PATTERNS, corpus_statistics, row_quality
from ytrainer_core.scoring.signals import RowSignals


def signals(*nll: float) -> RowSignals:
    values = np.asarray(nll, np.float32)
    positions = np.arange(1, len(nll) + 1)
    return RowSignals(values, values / 4, np.zeros(len(nll), np.int64), positions)


def judge(rows: list[RowSignals], **config: Any) -> JudgedCorpus:
    return judge_corpus(rows, corpus_statistics(rows), ScoreConfig(method="mean_loss", **config))


ROWS = [signals(1.0, 3.0), signals(), signals(4.0, 6.0, 5.0), signals(0.5)]


def test_every_row_has_its_numbers_in_corpus_order() -> None:
    judged = judge(ROWS)
    assert judged.score.tolist() == [2.0, 0.0, 5.0, 0.5]
    assert judged.mean_nll.tolist() == [2.0, 0.0, 5.0, 0.5]
    assert judged.mean_entropy.tolist() == [0.5, 0.0, 1.25, 0.125]
    assert judged.worst().tolist() == [2, 0, 3, 1]


def test_they_are_those_of_the_row_alone() -> None:
    judged, statistics = judge(ROWS), corpus_statistics(ROWS)
    for number, row in enumerate(ROWS):
        alone = row_quality(row, statistics, ScoreConfig(method="mean_loss"))
        assert judged.scores_of(number) == pytest.approx(alone.scores)


def test_a_score_that_no_row_has_has_no_column() -> None:
    judged = judge(ROWS)
    assert "ifd" not in judged.scores
    assert judged.scores_of(1) == {}  # a row without targets


def test_patterns_are_counted_over_all_targets() -> None:
    judged = judge(ROWS)
    assert set(judged.patterns) == set(PATTERNS)
    assert sum(judged.patterns.values()) == 6


@pytest.mark.parametrize(
    "settings, flagged",
    [
        ({"flag_fraction": 0.5}, [True, False, True, False]),
        ({"flag_fraction": 0.0}, [False] * 4),
        ({"flag_above": 4.5}, [False, False, True, False]),
        ({"flag_above": 2.0, "flag_fraction": 0.0}, [True, False, True, False]),
        ({"flag_fraction": 0.5, "action": "keep"}, [False] * 4),
    ],
)
def test_rows_are_flagged_by_share_or_by_score(
    settings: dict[str, Any], flagged: list[bool]
) -> None:
    config = ScoreConfig(method="mean_loss", **settings)
    found, threshold = judge(ROWS).flagged(config)
    assert found.tolist() == flagged
    assert math.isinf(threshold) == (not any(flagged))


def test_a_share_of_the_rows_is_rounded_as_people_do() -> None:
    scores = np.arange(100, dtype=float)
    assert flag_threshold(scores, 0.29) == 71.0  # 100 x 0.29 is 28.999999999999996
    assert flag_threshold(scores, 0.0) == math.inf


def test_rows_of_equal_score_never_make_it_more_than_the_share() -> None:
    scores = np.array([0.0] * 97 + [3.0, 3.0, 2.0])
    assert flag_threshold(scores, 0.05) == 2.0  # not the zeros as well
    assert flag_threshold(scores, 0.02) == 3.0
    assert flag_threshold(scores, 0.01) == math.inf
    assert flag_threshold(scores, 1.0) == 0.0


def test_a_corpus_without_rows_is_judged() -> None:
    judged = judge([])
    assert judged.worst().tolist() == []
    assert judged.flagged(ScoreConfig())[0].tolist() == []
