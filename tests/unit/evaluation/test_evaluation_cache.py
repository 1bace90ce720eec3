"""What was measured comes back as it was, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ytrainer_core.evaluation.cache import cache_folder, read_measurement, write_measurement
from ytrainer_core.evaluation.drift import Summaries
from ytrainer_core.evaluation.intervals import Estimate, RowValues
from ytrainer_core.evaluation.measure import Measurement
from ytrainer_core.files import FORGOTTEN_SECONDS

FULL = Measurement(
    scores={
        "target_loss": RowValues(np.array([1.5, np.nan]), np.array([2.0, 1.0])),
        "arc_easy_acc": Estimate(0.5, 0.4, 0.6, 100),
        "a/b": RowValues(np.array([1.0]), np.array([1.0])),
    },
    nll=[np.array([1.0, 0.5], np.float32), np.zeros(0, np.float32), np.array([3], np.float32)],
    answers=["eins", "答\n", ""],
    general_answers=["zwei"],
    summaries={
        "target": Summaries(
            np.array([[3, 4]], np.int32),
            np.array([[-0.1, -3]], np.float32),
            np.array([0.01], np.float32),
            np.array([1], np.int64),
        )
    },
    answer_logps=np.array([-3.5, -0.25]),
)
EMPTY = Measurement({})


def same(one: Measurement, other: Measurement) -> None:
    assert {*one.scores} == {*other.scores}
    for name, values in one.scores.items():
        found = other.scores[name]
        if isinstance(values, Estimate):
            assert found == values
            continue
        assert isinstance(found, RowValues)
        np.testing.assert_array_equal(found.sums, values.sums)
        np.testing.assert_array_equal(found.counts, values.counts)
    assert [row.tolist() for row in one.nll] == [row.tolist() for row in other.nll]
    np.testing.assert_array_equal(one.answer_logps, other.answer_logps)
    assert (one.answers, one.general_answers) == (other.answers, other.general_answers)
    assert {*one.summaries} == {*other.summaries}
    for name, summary in one.summaries.items():
        for field, array in vars(summary).items():
            found_array = getattr(other.summaries[name], field)
            np.testing.assert_array_equal(found_array, array)
            assert found_array.dtype == array.dtype


@pytest.mark.parametrize("measured", [FULL, EMPTY], ids=["full", "empty"])
def test_what_was_kept_comes_back_as_it_was(measured: Measurement) -> None:
    write_measurement("key", measured)
    found = read_measurement("key")
    assert found is not None
    same(measured, found)


def test_another_key_finds_nothing() -> None:
    write_measurement("key", FULL)
    assert read_measurement("other") is None


def test_the_later_of_two_replaces_the_earlier() -> None:
    write_measurement("key", FULL)
    write_measurement("key", EMPTY)
    found = read_measurement("key")
    assert found is not None and found.scores == {}


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["measurement.json", "arrays.npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "flipped"])
def test_a_damaged_one_counts_as_none(name: str, damage: str) -> None:
    write_measurement("key", FULL)
    path = cache_folder() / "key" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    elif name == "arrays.npz":
        flip(path)
    else:  # text of which one letter changed may still be JSON: a key that is not there is found
        path.write_text(path.read_text().replace('"summaries"', '"summariez"'))
    assert read_measurement("key") is None
    write_measurement("key", FULL)
    assert read_measurement("key") is not None


def test_one_under_another_name_or_of_another_format_counts_as_none() -> None:
    write_measurement("key", FULL)
    (cache_folder() / "key").rename(cache_folder() / "moved")
    assert read_measurement("moved") is None
    write_measurement("key", FULL)
    path = cache_folder() / "key" / "measurement.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    assert read_measurement("key") is None


def test_what_nobody_asked_for_long_is_forgotten_and_asking_keeps_it() -> None:
    for key in ("asked", "forgotten"):
        write_measurement(key, EMPTY)
    for folder in cache_folder().iterdir():
        long_ago = folder.stat().st_mtime - 2 * FORGOTTEN_SECONDS
        os.utime(folder, (long_ago, long_ago))
    assert read_measurement("asked") is not None
    write_measurement("new", EMPTY)
    assert {path.name for path in cache_folder().iterdir()} == {"asked", "new"}
