"""The curriculum benchmark: its figures by hand, and orders that start from the same base."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import curriculum
from benchmarks.curriculum import (
    ORDERS,
    RANDOM,
    compare,
    interval,
    mean_loss,
    steps_to,
    student_quantile,
)
from benchmarks.curriculum_case import measure_case
from benchmarks.measure import BenchmarkError

CURVE = [(0, 5.0), (10, 4.0), (20, 3.0), (30, 3.5), (40, 2.0)]


@pytest.mark.parametrize(
    "loss, steps", [(5.0, 0), (4.5, 5), (4.0, 10), (3.25, 17.5), (2.75, 35), (1.9, math.inf)]
)
def test_a_loss_is_reached_where_the_line_between_two_evaluations_first_crosses_it(
    loss: float, steps: float
) -> None:
    assert steps_to(CURVE, loss) == steps


def test_the_area_is_the_mean_loss_over_the_steps() -> None:
    """(4.5 x 10 + 3.5 x 10 + 3.25 x 10 + 2.75 x 10) / 40, and steps that are not alike."""
    assert mean_loss(CURVE) == pytest.approx(3.5)
    assert mean_loss([(0, 4.0), (30, 2.0), (40, 2.0)]) == pytest.approx((90 + 20) / 40)


@pytest.mark.parametrize(
    "probability, freedom, expected",
    [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.995, 4, 4.6041), (0.975, 30, 2.0423)],
)
def test_quantiles_are_those_of_the_table(
    probability: float, freedom: int, expected: float
) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(expected, abs=2e-4)


def test_an_interval_is_the_mean_and_its_error_times_t() -> None:
    """1, 2, 3, 4, 5: mean 3, deviation sqrt 2.5, 2.7764 x sqrt 2.5 / sqrt 5 = 1.9632."""
    found = interval([1, 2, 3, 4, 5], 0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 1.0368, 4.9632), abs=1e-3)
    assert found.leaves_out(1.0) and not found.leaves_out(1.1)


def test_orders_are_compared_seed_by_seed_and_one_that_never_arrives_counts_all_its_steps() -> None:
    control = [[(0, 4.0), (10, 2.0), (20, 2.0)], [(0, 4.0), (20, 2.0)]]
    faster = [[(0, 4.0), (5, 2.0), (20, 2.0)], [(0, 4.0), (10, 2.0), (20, 2.0)]]
    found = compare(faster, control, target=2.0, comparisons=1)
    assert found.ratio.mean == pytest.approx((5 / 10 + 10 / 20) / 2)
    # mean losses 2.25 and 2.5 against 2.5 and 3
    assert found.area.mean == pytest.approx(-0.375)
    never = compare([[(0, 4.0), (20, 3.0)]] * 2, control, target=2.0, comparisons=1)
    assert never.ratio.mean == pytest.approx((20 / 10 + 20 / 20) / 2)
    many = compare(faster, control, target=2.0, comparisons=10)
    assert many.area_all.low < many.area.low == found.area.low


def run(steps: int, shift: float) -> list[tuple[int, float]]:
    """From 4 to 2 nats within `steps` of 100; `shift` tells the seeds apart."""
    return [(0, 4.0), (steps, 2.0 + shift), (100, 2.0 + shift)]


def test_the_last_sentences_name_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    shifts = [0.0, 0.01, 0.02, 0.01, 0.0]
    curriculum.conclude(
        {
            RANDOM: [run(50, s) for s in shifts],
            "length": [run(25, s) for s in shifts],
            "entropy": [run(50 + round(100 * s) - 1, s) for s in shifts],
            "filtered": [run(90, s) for s in shifts],
        }
    )
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "steps: significantly fewer than random's for length; more for filtered."
    assert said[-1] == "area: significantly less than random's for length; more for filtered."
    row = next(line for line in said if line.startswith("| length "))
    assert "| 0.50 (0.50 to 0.50)" in row


def test_a_base_that_is_there_already_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"from 2\.050 to 2\.000 only"):
        curriculum.conclude({RANDOM: [[(0, 2.05), (10, 2.0)]] * 2})


def test_all_orders_train_the_same_rows_from_the_same_base(gsm8k: Path, base_folder: Path) -> None:
    case = {
        "system": "seed",
        "base": str(base_folder),
        "data": str(gsm8k),
        "seed": 3,
        "rows": 3,
        "held_out": 2,
        "epochs": 1,
        "learning_rate": 1e-2,
        "pack_length": 80,
        "evaluate_every": 2,
        "orders": ORDERS,
    }
    figures = measure_case(case)
    assert list(figures["curves"]) == list(ORDERS)
    curves = list(figures["curves"].values())
    assert {tuple(step for step, _ in curve) for curve in curves} == {(0, 2, 3)}
    assert len({curve[0][1] for curve in curves}) == 1
    assert all(curve[-1][1] < curve[0][1] for curve in curves)
    forward, back = (figures["curves"][n][-1][1] for n in ("mean_loss", "mean_loss, descending"))
    assert forward != back
    assert measure_case(case) == figures
