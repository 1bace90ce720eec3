"""What was measured of a model is kept, so that base and champion are not measured again.

A folder per model and evaluation digest, complete or not there. One that is damaged, or of
another format, counts as none.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.evaluation.drift import Summaries
from ytrainer_core.evaluation.intervals import Estimate, RowValues
from ytrainer_core.evaluation.measure import Measurement
from ytrainer_core.files import atomic_folder, forget_old, home, sha256_file, write_json

_FORMAT = 2
"""Raise it when a stored measurement is to be read otherwise than before."""

_TREE = "measurement.json"
_ARRAYS = "arrays.npz"

Arrays = Mapping[str, npt.NDArray[Any]]


def cache_folder() -> Path:
    """Where measurements lie, below home()."""
    return home() / "cache" / "evaluations"


def read_measurement(key: str) -> Measurement | None:
    """What was kept under a key; None where nothing was, or it is damaged. Counts as a use."""
    folder = cache_folder() / key
    try:
        tree = json.loads((folder / _TREE).read_text(encoding="utf-8"))
        if [tree["format"], tree["key"], tree["arrays"]] != [
            _FORMAT,
            key,
            sha256_file(folder / _ARRAYS),
        ]:
            return None
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            found = _measurement(tree, {name: stored[name] for name in stored.files})
        os.utime(folder)
        return found
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def write_measurement(key: str, measured: Measurement) -> None:
    """Keep what was measured, whole or not at all; what nobody asked for long is deleted."""
    forget_old(cache_folder())
    with atomic_folder(cache_folder() / key) as scratch:
        np.savez(scratch / _ARRAYS, **_arrays(measured))  # type: ignore[arg-type]
        write_json(
            scratch / _TREE,
            {
                "format": _FORMAT,
                "key": key,
                "arrays": sha256_file(scratch / _ARRAYS),
                "scores": {
                    name: asdict(values) if isinstance(values, Estimate) else None
                    for name, values in measured.scores.items()
                },
                "answers": measured.answers,
                "general_answers": measured.general_answers,
                "summaries": list(measured.summaries),
            },
        )


def _arrays(measured: Measurement) -> dict[str, npt.NDArray[Any]]:
    nll = measured.nll
    arrays: dict[str, npt.NDArray[Any]] = {
        "nll": np.concatenate([np.zeros(0, np.float32), *nll]),
        "nll_ends": np.cumsum([len(row) for row in nll], dtype=np.int64),
        "answer_logps": measured.answer_logps,
    }
    for name, values in measured.scores.items():
        if isinstance(values, RowValues):
            arrays[f"sums/{name}"] = values.sums
            arrays[f"counts/{name}"] = values.counts
    for name, summaries in measured.summaries.items():
        for field in fields(summaries):
            arrays[f"summaries/{name}/{field.name}"] = getattr(summaries, field.name)
    return arrays


def _measurement(tree: Mapping[str, Any], arrays: Arrays) -> Measurement:
    return Measurement(
        scores={
            name: Estimate(**estimate)
            if estimate
            else RowValues(arrays[f"sums/{name}"], arrays[f"counts/{name}"])
            for name, estimate in tree["scores"].items()
        },
        nll=np.split(arrays["nll"], arrays["nll_ends"][:-1]) if len(arrays["nll_ends"]) else [],
        answers=tree["answers"],
        general_answers=tree["general_answers"],
        summaries={
            name: Summaries(
                **{each.name: arrays[f"summaries/{name}/{each.name}"] for each in fields(Summaries)}
            )
            for name in tree["summaries"]
        },
        answer_logps=arrays["answer_logps"],
    )
