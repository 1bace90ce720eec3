"""The harness: figures of fresh processes, medians, tables, and errors that can be acted on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.corpus import count, load_rows, prepare, read_gsm8k
from benchmarks.measure import BenchmarkError


def test_a_figure_is_the_median_of_its_runs_with_the_least_and_the_greatest() -> None:
    runs = [{"seconds": 3.0}, {"seconds": 1.0}, {"seconds": 2.5}]
    assert measure.median(runs, "seconds") == 2.5
    assert measure.spread(runs, "seconds", 1) == "2.5 (1.0 - 3.0)"
    assert measure.spread(runs[:1], "seconds") == "3"


def test_a_table_is_markdown_with_aligned_columns() -> None:
    assert measure.table(["case", "s"], [["naive", "1"]]).splitlines() == [
        "| case  | s |",
        "|-------|---|",
        "| naive | 1 |",
    ]


def test_memory_grows_with_what_is_held() -> None:
    now, peak = measure.resident_bytes()
    held = bytearray(b"x") * (64 * measure.MIB)
    assert measure.resident_bytes()[0] > now + 48 * measure.MIB
    assert measure.resident_bytes()[1] >= peak
    del held


def test_a_case_that_fails_shows_the_end_of_its_output() -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)case .*none.*KeyError: 'none'"):
        measure.run_case("benchmarks.token_groups_case", {"name": "x", "system": "none"}, 1)


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(BenchmarkError, match=r"no_such.*pip install 'ytrainer\[bench\]'"):
        measure.require("no_such")


def test_a_missing_corpus_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"gsm8k_train.jsonl is missing.*grade-school-math"):
        read_gsm8k(tmp_path / "gsm8k_train.jsonl", 1)


def test_rows_are_cut_to_the_asked_number_and_long_ones_left_out(
    gsm8k: Path, tmp_path: Path
) -> None:
    prepare(tmp_path, gsm8k, rows=4, held_out=1, longest=512)
    train, test = load_rows(tmp_path, "train"), load_rows(tmp_path, "test")
    assert (len(train), len(test)) == (4, 1)
    tokens, targets = count(train)
    assert tokens == sum(len(row["input_ids"]) for row in train)
    assert 0 < targets < tokens
    prepare(tmp_path, gsm8k, rows=4, held_out=1, longest=8)
    assert load_rows(tmp_path, "train") == []
