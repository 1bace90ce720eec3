"""The command line as a person meets it: words in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_examples import alpaca

from ytrainer_core.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What was said on stderr, in one line."""
        return " ".join(self.err.split())


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """cli("sft", "seed=1", …) -> Outcome. Lines are wide, so that paths stay whole."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        told = capsys.readouterr()
        code = leaving.value.code
        assert isinstance(code, int)
        return Outcome(code, told.out, told.err)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """rows([...], name) -> path of a .json or .jsonl file; strings and bytes are written as is."""

    def write(content: Any = None, name: str = "rows.json") -> Path:
        path = tmp_path / name
        if content is None:
            content = alpaca(20)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in content))
        else:
            path.write_text(json.dumps(content, indent=1))
        return path

    return write
