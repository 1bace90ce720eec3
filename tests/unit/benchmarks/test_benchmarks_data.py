"""The data benchmark: varied rows, the same work on both sides, memory of the process tree."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data, data_case
from benchmarks.data_case import Watch, measure_case
from benchmarks.measure import MIB, BenchmarkError, run_case
from ytrainer_core.data.near import shingles, similarity

ROWS = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_case, "SAMPLE_ROWS", 60)
        patch.setattr(data_case, "VOCABULARY", 500)
        measure_case({"system": "write", "folder": str(folder), "rows": ROWS})
    return folder


def test_rows_are_a_kilobyte_all_differ_and_come_again() -> None:
    rows = list(data_case.rows(2000))
    assert 900 < statistics.mean(len(row) for row in rows) < 1200
    assert len({json.loads(row)["messages"][0]["content"] for row in rows}) == 2000
    assert rows[:50] == list(islice(data_case.rows(10**9), 50))
    words = {word for row in rows for word in row.split()}
    assert len(words) > 10_000


def test_no_row_is_nearly_another() -> None:
    import numpy as np

    texts = [json.loads(row)["messages"][1]["content"] for row in data_case.rows(60)]
    sets = [np.unique(shingles(text)) for text in texts]
    assert all(one.size for one in sets)
    closest = max(similarity(a, b) for i, a in enumerate(sets) for b in sets[:i])
    assert closest < 0.2


def test_both_sides_read_every_row_and_make_the_same_tokens(corpus: Path) -> None:
    # each in a process of its own: datasets puts another object in the place of os.environ
    ours, peer = (
        run_case("benchmarks.data_case", {"name": s, "system": s, "folder": str(corpus)}, threads=1)
        for s in ("ours", "peer")
    )
    assert ours["rows"] == peer["rows"] == ROWS
    assert ours["tokens"] == peer["tokens"] > 100 * ROWS
    assert ours["targets"] == peer["targets"] < ours["tokens"]
    for figures in (ours, peer):
        assert figures["seconds"] > 0 and figures["cpu"] > 0
        assert figures["peak"] >= figures["own"] > 20 * MIB
    assert sorted(path.name for path in corpus.iterdir()) == ["rows.jsonl", "tokenizer"]


def _work(seconds: float) -> None:
    held = bytearray(b"x") * (64 * MIB)
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    del held


def test_memory_and_processor_time_of_children_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_case, "SAMPLE_SECONDS", 0.1)
    with Watch() as alone:
        time.sleep(0.2)
    child = multiprocessing.get_context("spawn").Process(target=_work, args=(1.0,))
    with Watch() as both:
        child.start()
        child.join()
    assert alone.cpu >= 0 and both.cpu > 0.8
    assert alone.own > 0
    assert both.own > alone.own + 48 * MIB


def run(rows: int, seconds: float, **changes: Any) -> dict[str, Any]:
    made = {"rows": rows, "tokens": 9 * rows, "targets": 4 * rows, "cpu": 1.0}
    return {**made, "peak": 3e8, "own": 2e8, "seconds": seconds, **changes}


def test_ratios_are_rows_a_second_of_ours_over_the_peers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = data.compare({"ours": [run(100, 2), run(100, 1)], "peer": [run(100, 3), run(100, 5)]})
    # Medians of 50 and 100 rows/s, and of 33.3 and 20.
    assert (small.ours, small.ratio) == (75.0, pytest.approx(75 / 26.6667, rel=1e-4))
    large = data.compare({"ours": [run(1000, 20, peak=7e8)], "peer": [run(1000, 30)]})
    assert "rows/s, 1,000 rows: 50 / 33 = 1.50" in capsys.readouterr().out
    said = data.conclude({100: small, 1000: large})
    assert "1,000 rows / 100 rows: 1.50" in said
    assert "memory of ours: 0.70 GB of 1.5 GB" in said
    assert said.splitlines()[-1] == "ratio: 1.50"


def test_sides_that_did_not_do_the_same_are_not_compared() -> None:
    with pytest.raises(BenchmarkError, match="not the same"):
        data.compare({"ours": [run(10, 1)], "peer": [run(10, 1, tokens=89)]})


def test_sizes_are_numbers_of_rows() -> None:
    assert data.sizes_of("10000,200") == [10000, 200]
    for wrong in ("", "ten", "0,5"):
        with pytest.raises(argparse.ArgumentTypeError, match="like 10000,100000"):
            data.sizes_of(wrong)
