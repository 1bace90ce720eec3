"""The reference's log-probabilities, computed once and kept.

They lie below home()/cache/reference under a name made of everything they depend on, so that a
training that is continued, or repeated with another learning rate, finds them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ytrainer_core.data.corpus import RowsDigest
from ytrainer_core.files import atomic_folder, home, sha256_json

if TYPE_CHECKING:
    import datasets

_FILE = "logps.npz"
_READ_ROWS = 1000


def reference_folder(rows: datasets.Dataset, made_by: str) -> Path:
    """Where the log-probabilities of these rows lie. made_by: identity of the reference, and what
    else decides over them."""
    columns = [name for name in rows.column_names if name.endswith("_ids")]
    digest = RowsDigest(columns)
    for table in rows.with_format("arrow").iter(_READ_ROWS):
        digest.update(table)
    key = sha256_json([columns, digest.hexdigest(), made_by])
    return home() / "cache" / "reference" / key


def read_reference(folder: Path) -> dict[str, list[list[float]]] | None:
    """Column -> log-probabilities (nats) of each row's answer tokens; None where not yet there."""
    try:
        with np.load(folder / _FILE) as file:
            stored = dict(file)
    except (OSError, ValueError):
        return None
    names = [name for name in stored if not name.endswith("lengths")]
    return {name: list(_rows(stored[name], stored[f"{name}_lengths"])) for name in names}


def write_reference(folder: Path, columns: dict[str, list[list[float]]]) -> None:
    """Keep log-probabilities, whole or not at all."""
    arrays: dict[str, Any] = {}
    for name, rows in columns.items():
        arrays[name] = np.array([value for row in rows for value in row], np.float32)
        arrays[f"{name}_lengths"] = np.array([len(row) for row in rows], np.int64)
    with atomic_folder(folder) as scratch:
        np.savez(scratch / _FILE, **arrays)


def _rows(flat: Any, lengths: Any) -> Iterator[list[float]]:
    begin = 0
    for length in lengths.tolist():
        yield flat[begin : begin + length].tolist()
        begin += length
