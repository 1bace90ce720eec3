"""The scoring benchmark: both sides read the same targets, and the ratio is ours over naive."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scoring
from benchmarks.corpus import count, load_rows
from benchmarks.measure import MIB, BenchmarkError
from benchmarks.scoring import Setting
from benchmarks.scoring_case import measure_case


def test_both_sides_give_the_same_signals(prepared: Path) -> None:
    setting = Setting("tiny", 4096, 6, promised=2.5)
    for case in scoring.cases_of(setting, prepared):
        figures = measure_case(case)
        assert figures["rows"] == 6
        assert figures["rows_per_second"] * figures["seconds"] == pytest.approx(6)
        assert figures["peak"] > figures["above"] >= 0
        assert figures["mean_nll"] == pytest.approx(math.log(4096), rel=0.1)  # random weights
    _, targets = count(load_rows(prepared, "train"))
    assert np.load(prepared / "ours.npy").shape == (2, targets)
    assert scoring.greatest_difference(prepared) < scoring.PROMISED_DIFFERENCE


def test_other_targets_are_no_difference_but_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "naive.npy", np.array([[1.0, 2.0], [0.5, 0.5]]))
    np.save(tmp_path / "ours.npy", np.array([[1.0, 2.25], [0.5, 0.5]]))
    assert scoring.greatest_difference(tmp_path) == 0.25
    np.save(tmp_path / "ours.npy", np.ones((2, 3)))
    with pytest.raises(BenchmarkError, match="not the same targets: 2 and 3"):
        scoring.greatest_difference(tmp_path)


def test_ratios_are_of_rows_a_second_and_of_the_greatest_peaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(speed: float, peak: float) -> dict[str, Any]:
        return {"rows_per_second": speed, "peak": peak * MIB, "above": MIB}

    found = {"naive": [run(10, 400), run(12, 500)], "ours": [run(30, 390), run(36, 400)]}
    result = scoring.compare(Setting("2.7m", 4096, 8, promised=2.5), found, 1e-6)
    assert (result.ratio, result.memory) == (3.0, 0.8)
    said = capsys.readouterr().out
    assert "rows/s, 2.7m, vocabulary 4,096: 33.0 / 11.0 = 3.00 of 2.5 promised" in said
    assert "peak memory: 400 / 500 MiB = 0.80" in said
