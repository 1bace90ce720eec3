"""The token group benchmark: the naive side is the same training, and the clock is just."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import corpus, token_groups, token_groups_case
from benchmarks.token_groups_case import Clock, group_count, measure_case, naive_token_groups
from ytrainer_core.training.engine import train


def test_naive_token_groups_and_ours_end_with_the_same_weights(
    make_model: Callable[..., Any],
    make_rows: Callable[..., Any],
    make_job: Callable[..., Any],
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    rows, naive = make_rows([30, 17, 24]), make_model()
    ours = copy.deepcopy(naive)
    steps = naive_token_groups(naive, rows, learning_rate=1e-3, epochs=2)
    job = make_job(batching="token_groups", num_train_epochs=2, ordered=True, max_length=64)
    result = train(
        ours, tokenizer, rows, job, checkpoints=tmp_path / "c", log=lambda metrics, step: None
    )
    assert steps == result.steps == 2 * group_count(rows) == 2 * (3 + 2 + 3)
    for found, expected in zip(ours.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_clock_stands_still_during_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 2 s, evaluations of 10 s."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock()
    for step in (1, 2):
        now[0] += 2
        clock.log({"loss": 5.0}, step)
        now[0] += 10
        clock.log({"eval_loss": 4.0 - step}, step)
    now[0] += 3
    assert clock.curve == [(2.0, 1, 3.0), (4.0, 2, 2.0)]
    assert clock.seconds == 7.0


def test_a_loss_is_reached_when_it_was_first_as_low() -> None:
    run = {"curve": [[1.0, 10, 5.0], [2.0, 20, 4.0], [3.0, 30, 4.5]]}
    assert token_groups.seconds_to(run, 4.6) == 2.0
    assert token_groups.seconds_to(run, 3.9) == float("inf")


def test_ratios_are_naive_over_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """Naive was as good as at its end after 60 s of 80; fast is there after 5 s of 9."""
    found = {
        "naive": [{"seconds": 80.0, "steps": 8, "loss": 3.0, "curve": [[60.0, 6, 2.9]]}],
        "exact": [{"seconds": 40.0, "steps": 8, "loss": 3.0, "curve": [[40.0, 8, 3.0]]}],
        "fast": [{"seconds": 9.0, "steps": 3, "loss": 2.5, "curve": [[5.0, 2, 3.0]]}],
    }
    assert token_groups.compare(found) == (2.0, 12.0)
    assert "held-out loss to reach: 3.0000" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_case_gives_a_curve_from_the_same_base(
    method: str, gsm8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(corpus.SHAPES, "tiny", {**corpus.SHAPES["2.7m"], "num_hidden_layers": 1})
    monkeypatch.setattr(token_groups_case, "SHAPE", "tiny")
    folder = tmp_path / "base"
    folder.mkdir()
    base = measure_case(
        {"system": "base", "folder": str(folder), "data": str(gsm8k), "rows": 4, "held_out": 2}
    )
    assert (base["rows"], base["held_out"], base["tokens"]) == (4, 2, 0)  # no general text there
    fast = {"epochs": 1, "pack_length": 128, "evaluate_every": 1}
    losses = []
    for case in token_groups.cases_of(method, folder, 1, fast=fast):
        figures = measure_case(case)
        times = [at for at, _, _ in figures["curve"]]
        assert times == sorted(times) and 0 < times[-1] <= figures["seconds"]
        losses.append(figures["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert losses[2] < base["loss"]
