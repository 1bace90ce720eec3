"""What a component does before and besides its stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.stages import run_component

REFUSED = "cluster.mlflow_secret"


@pytest.fixture
def said(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """said(**sections) -> what a validate component says, which has no corpus and ends with 2."""

    def call(**sections: Any) -> str:
        tree = {"model": {"name_or_path": str(base_folder)}, "data": {"train": "missing.jsonl"}}
        outputs = {name: str(tmp_path / name) for name in ("dataset", "report")}
        with pytest.raises(SystemExit) as leaving:
            run_component("validate", {**tree, **sections}, outputs=outputs)
        assert leaving.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return call


def test_a_pod_does_not_record_its_runs_in_a_file_that_is_lost_with_it(
    said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YTRAINER_HOME")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KFP_POD_NAME", "finetune-abc-1")
    monkeypatch.chdir(tmp_path)
    assert REFUSED in said()
    assert "missing.jsonl" in said(tracking={"enabled": False})
    assert "missing.jsonl" in said(tracking={"uri": f"sqlite:///{tmp_path}/kept.db"})
    monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / "volume"))
    assert "missing.jsonl" in said()
