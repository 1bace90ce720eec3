"""The SFT benchmark: like is compared with like, and every token is counted."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sft
from benchmarks.corpus import count, load_rows
from benchmarks.sft_case import measure_case


def case_of(folder: Path, **changes: Any) -> dict[str, Any]:
    case = {
        "name": "case",
        "method": "lora",
        "folder": str(folder),
        "rows": 6,
        "shape": "tiny",
        "vocabulary": 4096,
        "pack_length": 64,
        "batch": 1,
        "accumulation": 2,
    }
    return case | changes


def check(figures: dict[str, Any], folder: Path) -> None:
    tokens, _ = count(load_rows(folder, "train"))
    assert figures["tokens_per_second"] * figures["seconds"] == pytest.approx(tokens)
    assert figures["peak"] > figures["above"] >= 0
    assert figures["first_loss"] == pytest.approx(math.log(4096), rel=0.1)  # random weights


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_case_of_ours_sees_every_token_once(method: str, prepared: Path) -> None:
    check(measure_case(case_of(prepared, system="ytrainer", method=method)), prepared)


@pytest.mark.skipif(not importlib.util.find_spec("trl"), reason="trl is not installed")
@pytest.mark.parametrize("packs", [{}, {"pack_length": 0, "batch": 2}])
def test_a_case_of_trl_sees_every_token_once(packs: dict[str, int], prepared: Path) -> None:
    check(measure_case(case_of(prepared, system="trl", **packs)), prepared)


def test_all_packed_cases_take_the_same_tokens_a_step() -> None:
    for cell in [*sft.speed_cells(), *sft.memory_cells()]:
        if cell["pack_length"]:
            assert cell["pack_length"] * cell["batch"] * cell["accumulation"] == sft.STEP_TOKENS


def test_the_case_of_each_side_that_is_best_decides() -> None:
    cases = [
        {"name": name, "system": system, "method": "lora"}
        for name, system in (("a", "trl"), ("b", "trl"), ("c", "ytrainer"))
    ]
    found = {
        name: [{"tokens_per_second": speed, "peak": peak}]
        for name, speed, peak in (("a", 10, 7), ("b", 20, 9), ("c", 30, 3))
    }
    assert sft.best(cases, found, "trl", "lora", "tokens_per_second") == 20
    assert sft.best(cases, found, "trl", "lora", "peak") == 7


def test_without_trl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'ytrainer\[bench\]'"):
        sft.main(["--rows", "1"])
