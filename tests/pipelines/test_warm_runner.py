"""Steps that are forked from one warm process are what they would be as processes of their own."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kfp import dsl, local

from pipelines import warm_runner
from pipelines.warm_runner import can_fork, subprocess_runner

pytestmark = pytest.mark.skipif(not can_fork(), reason="steps start cold here")

SAID = "WARM_RUNNER_SAID"


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def tell(word: str, exit_code: int) -> str:
    import json
    import os
    import sys

    print(f"said {word}", flush=True)
    print("also this", file=sys.stderr)
    if exit_code < 0:
        raise KeyboardInterrupt
    if exit_code:
        sys.exit(exit_code)
    told = {
        "parent": os.getppid(),
        "folder": os.path.realpath("."),
        "torch": "torch" in sys.modules,
    }
    return json.dumps(told | {"variable": os.environ.get("WARM_RUNNER_SAID"), "word": word})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """run(word, exit_code=0) -> what the step returned; all of a test have one runner."""
    with subprocess_runner() as runner:
        local.init(runner=runner, pipeline_root=str(tmp_path))

        def go(word: str, exit_code: int = 0) -> Any:
            return json.loads(tell(word=word, exit_code=exit_code).output)

        yield go


def test_steps_are_children_of_one_process_that_has_torch_and_print_here(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run("one")
    monkeypatch.setenv(SAID, "later")
    second = run("two 二")
    assert (first["word"], second["word"]) == ("one", "two 二")
    assert first["torch"] and first["parent"] == second["parent"] != os.getpid()
    assert psutil.Process(first["parent"]).ppid() == os.getpid()
    assert (first["variable"], second["variable"]) == (None, "later")
    printed = capsys.readouterr().out
    assert "said one\n" in printed and "also this\n" in printed and "said two 二\n" in printed


def test_a_step_that_fails_is_a_failure_and_the_next_one_still_starts(
    run: Callable[..., Any],
) -> None:
    for exit_code in (3, -1):
        with pytest.raises(RuntimeError, match="FAILURE"):
            run("one", exit_code)
    assert run("two")["word"] == "two"


def test_where_the_process_was_killed_a_step_fails(run: Callable[..., Any]) -> None:
    os.kill(run("one")["parent"], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="FAILURE"):
        run("two")


def test_a_process_that_cannot_import_what_is_shared_leaves_steps_cold(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "peft.py").write_text("raise ImportError('broken')")
    assert not run("one")["torch"]


def test_the_process_ends_with_the_runner(tmp_path: Path) -> None:
    with subprocess_runner() as runner:
        local.init(runner=runner, pipeline_root=str(tmp_path))
        parent = json.loads(tell(word="one", exit_code=0).output)["parent"]
        assert psutil.pid_exists(parent)
    assert not psutil.pid_exists(parent)


def test_where_nothing_can_be_forked_a_step_starts_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_runner, "can_fork", lambda: False)
    with subprocess_runner() as runner:
        local.init(runner=runner, pipeline_root=str(tmp_path))
        told = json.loads(tell(word="one", exit_code=0).output)
    assert not told["torch"] and told["word"] == "one"
