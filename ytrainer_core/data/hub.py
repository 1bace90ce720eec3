"""hub:DATASET[:CONFIG][:SPLIT] becomes one .parquet file, loaded once and read from there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ytrainer_core import files
from ytrainer_core.errors import DataError

PREFIX = "hub:"

_DEFAULT_SPLIT = "train"
_FILE = "rows.parquet"
_WRITTEN = "hub:DATASET[:CONFIG][:SPLIT], as hub:openai/gsm8k:main:train"
# A colon between parts; the ones inside brackets slice a split (train[:100]).
_BETWEEN_PARTS = re.compile(r":(?![^\[]*\])")


def load(name: str) -> Path:
    """The rows of a data set of the hub, or of a local folder behind hub:, as one .parquet file.

    It lies below home()/cache/hub and is made once; of a local folder again where its files have
    changed. Raises DataError where the data set cannot be loaded.
    """
    dataset, *rest = _BETWEEN_PARTS.split(name.removeprefix(PREFIX))
    if not dataset or len(rest) > 2:
        raise DataError(f"{name}: names no data set. Write it as {_WRITTEN}.")
    cache = files.home() / "cache" / "hub"
    folder = cache / files.sha256_json([name, _state(Path(dataset))])
    if not (folder / _FILE).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".loading.") as scratch:
            loaded = _loaded(name, dataset, rest, scratch)
            with files.atomic_folder(folder) as target:
                loaded.to_parquet(target / _FILE)
    return folder / _FILE


def _state(folder: Path) -> list[list[object]]:
    """What a local folder holds; empty for a data set that is none."""
    if not folder.is_dir():
        return []
    inside = ((file.relative_to(folder), file.stat()) for file in sorted(folder.rglob("*")))
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in inside]


def _loaded(name: str, dataset: str, rest: Sequence[str], scratch: str) -> Any:
    import datasets

    try:
        config, split = _config_and_split(dataset, rest)
        return datasets.load_dataset(dataset, config, split=split, cache_dir=scratch)
    except Exception as error:  # whatever the network, the hub and the files' readers raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: the data set cannot be loaded ({said}). Correct its name, configuration or "
            f"split ({_WRITTEN}), or check the connection; a private one needs HF_TOKEN."
        ) from error


def _config_and_split(dataset: str, rest: Sequence[str]) -> tuple[str | None, str]:
    """One further part is a configuration where the data set has one of that name, else a split."""
    import datasets

    if len(rest) == 2:
        return rest[0] or None, rest[1] or _DEFAULT_SPLIT
    if not rest or not rest[0]:
        return None, _DEFAULT_SPLIT
    if rest[0] in datasets.get_dataset_config_names(dataset):
        return rest[0], _DEFAULT_SPLIT
    return None, rest[0]
