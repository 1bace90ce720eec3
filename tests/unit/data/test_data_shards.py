"""What a shard keeps of a row depends on the rules that are on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data.reader import RawRow
from ytrainer_core.data.shards import Checker, read_shard

ROW = json.dumps({"text": " ".join(f"word{n}" for n in range(40))})


@pytest.mark.parametrize(
    ("rules", "made"),
    [
        ("", True),
        ("near_duplicate=off", True),  # near leaks are still looked for
        ("near_leakage=off", True),
        ("near_duplicate=off,near_leakage=error", True),
        ("near_duplicate=off,near_leakage=off", False),
    ],
)
def test_bands_are_made_where_a_rule_looks_for_near_rows_and_only_there(
    tmp_path: Path, rules: str, made: bool
) -> None:
    config = DataConfig.model_validate({"rules": rules})
    path = tmp_path / "shard.arrow"
    Checker(config, None, measured=False).write("f", [RawRow(1, ROW)], path)
    [bands] = read_shard(path).column("bands").to_pylist()
    assert any(bands) == all(bands) == made
