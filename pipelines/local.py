"""Run a pipeline on this machine through kfp.local, and tell what happened.

The definition is the one a cluster runs; only the runner differs. What the steps
print goes to one log file, what a person wants to know to the terminal.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipelines import PIPELINES
from pipelines.arguments import arguments_of
from pipelines.configs import PIPELINE_CONFIGS
from pipelines.steps import steps_end_with_us
from pipelines.warm_runner import subprocess_runner
from ytrainer_core.config import dump_json, narrow
from ytrainer_core.data.corpus import SPLITS
from ytrainer_core.errors import ERRORS, GateRejected, StageFailed
from ytrainer_core.files import home, sha256_json, write_json, write_text
from ytrainer_core.progress import PROGRESS_SECONDS_VARIABLE
from ytrainer_core.stages.run import (
    ERROR_FILE_VARIABLE,
    PIPELINE_PID_VARIABLE,
    SUMMARY_FOLDER_VARIABLE,
)

_STARTED = re.compile(r"Executing task .*?'([\w-]+)'")
_ENDED = re.compile(r"Task .*?'([\w-]+)'.* finished with status .*?(SUCCESS|FAILURE)")
_PROGRESS = re.compile(r"^\s*([\w -]+: [\d,]+/[\d,]+.*)$")


@dataclass(frozen=True)
class PipelineResult:
    """What a local pipeline run made.

    passed: the gate's verdict, None without a gate. version: URI of the registered version, empty
    without one. stages: per stage its metrics, values, summary and outputs. folder: everything it
    wrote.
    """

    passed: bool | None
    version: str
    stages: dict[str, dict[str, Any]]
    folder: Path
    seconds: float


def run_local(name: str, tree: Mapping[str, Any], path: Path | None = None) -> PipelineResult:
    """Run a pipeline with a config tree (one YAML and its overrides).

    Raises the error of the step that failed, and GateRejected where the gate said no.
    """
    result = perform(name, tree, path)
    if result.passed is False:
        raise rejection(result)
    return result


def rejection(result: PipelineResult) -> GateRejected:
    """The error that says why the gate rejected what a run made."""
    reasons = result.stages["evaluate"]["summary"]["reasons"]
    return GateRejected(f"the gate rejected {result.version}; no alias was moved.", reasons)


def perform(
    name: str, tree: Mapping[str, Any], path: Path | None = None, *, limit: float = 0.0
) -> PipelineResult:
    """Run a pipeline, whatever the gate decides.

    limit: seconds after which it is ended with TimedOut; 0 sets none. Raises the error of the step
    that failed.
    """
    from kfp import local

    from ytrainer_core.demo.resources import resolve
    from ytrainer_core.tracking import open_pipeline_run

    started = time.monotonic()
    pipeline = PIPELINES[name]
    config = resolve(narrow(PIPELINE_CONFIGS[name], tree, path))
    arguments = arguments_of(name, _said(tree, config), pipeline)
    folder = _run_folder(name)
    write_text(folder / "config.json", dump_json(config))
    own = config.model_dump(mode="json", exclude={"output_dir", "cluster"})
    key = sha256_json([name, own])[:16]
    with open_pipeline_run(name, config, key) as run:
        variables = {
            "YTRAINER_HOME": str(home()),
            "YTRAINER_PARENT_RUN_ID": run.run_id,
            ERROR_FILE_VARIABLE: str(folder / "error.json"),
            SUMMARY_FOLDER_VARIABLE: str(folder / "stages"),
            PIPELINE_PID_VARIABLE: str(os.getpid()),
            "PYTHONWARNINGS": "ignore",
        }
        if sys.stderr.isatty():
            variables[PROGRESS_SECONDS_VARIABLE] = "2"
        with (
            _environment(variables, without=("MLFLOW_RUN_ID",)),
            (folder / "log.txt").open("w", encoding="utf-8") as log,
            _Narrator(log, folder / "stages") as narrator,
            contextlib.redirect_stdout(narrator),  # type: ignore[type-var]
            warnings.catch_warnings(),
            steps_end_with_us(limit),
            subprocess_runner() as runner,
        ):
            warnings.simplefilter("ignore")
            local.init(runner=runner, pipeline_root=str(folder / "kfp"))
            try:
                pipeline(**arguments)
            except RuntimeError as error:
                raise _cause(folder) from error
        result = _collect(folder, time.monotonic() - started)
        if result.passed and "promote" not in result.stages:
            raise StageFailed(
                f"the gate passed {result.version}, but kfp did not run the promotion. Promote it "
                f"by hand: ytrainer registry promote {result.version}"
            )
        for stage in result.stages.values():
            run.log(stage["metrics"], 0)
        if result.passed is not None:
            run.tag("ytrainer.gate", "passed" if result.passed else "rejected")
        if result.version:
            run.tag("ytrainer.version", result.version)
    return result


def _said(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The tree as the user wrote it, with demo: names replaced by what they stand for."""
    said: dict[str, Any] = json.loads(json.dumps(tree))
    said.setdefault("model", {})["name_or_path"] = config.model.name_or_path
    for split in SPLITS:
        said.setdefault("data", {})[split] = list(getattr(config.data, split))
    return said


def _run_folder(name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = home() / "pipelines" / f"{name}-{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{stamp}-{number}")
    (folder / "stages").mkdir(parents=True)
    return folder


def _collect(folder: Path, seconds: float) -> PipelineResult:
    stages = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((folder / "stages").glob("*.json"), key=lambda f: f.stat().st_mtime)
        if not file.name.endswith(".config.json")
    }
    for stage, told in stages.items():
        report = told["outputs"].get("report")
        if report:
            target = folder / "reports" / f"{stage}.html"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(report, target)
    values = {stage: told["values"] for stage, told in stages.items()}
    result = PipelineResult(
        passed=values.get("evaluate", {}).get("passed"),
        version=values.get("register", {}).get("version", ""),
        stages=stages,
        folder=folder,
        seconds=seconds,
    )
    write_json(
        folder / "result.json",
        {"passed": result.passed, "version": result.version, "seconds": seconds, "stages": stages},
    )
    return result


def _cause(folder: Path) -> Exception:
    """The error that a step wrote down before it ended, else that it ended without a word."""
    try:
        told = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        return ERRORS[told["kind"]](*told["faults"])
    except (OSError, ValueError, KeyError):
        return StageFailed(
            f"a step of the pipeline ended without a reason (out of memory, or killed). The end of "
            f"{folder / 'log.txt'} tells more; a second start continues from the last checkpoint."
        )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str], without: tuple[str, ...]) -> Iterator[None]:
    """Set environment variables for the steps, and take them back afterwards."""
    before = dict(os.environ)
    os.environ.update(variables)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Narrator:
    """A stream that keeps what kfp prints in a log and shows a person where the run is."""

    def __init__(self, log: TextIO, summaries: Path) -> None:
        from rich.console import Console

        self._log, self._summaries, self._line = log, summaries, ""
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._stage, self._started = "", 0.0

    def __enter__(self) -> "_Narrator":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def write(self, text: str) -> int:
        """Called by print and logging with pieces of lines."""
        self._log.write(text)
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self._log.flush()
            self._tell(re.sub(r"\x1b\[\d+m", "", line))
        return len(text)

    def flush(self) -> None:
        """Part of the stream protocol."""
        self._log.flush()

    def _tell(self, line: str) -> None:
        if started := _STARTED.search(line):
            self._stage, self._started = started[1], time.monotonic()
            self._status.update(self._stage)
        elif ended := _ENDED.search(line):
            if ended[1] != self._stage:
                return  # the pipeline itself, or a condition
            mark = "[green]✓[/]" if ended[2] == "SUCCESS" else "[red]✗[/]"
            seconds = time.monotonic() - self._started
            self._console.print(f"{mark} {self._stage:10} {seconds:6.1f} s")
        elif progress := _PROGRESS.match(line):
            self._status.update(f"{self._stage}  {progress[1]}")
            if not self._console.is_terminal:
                self._console.print(f"  {progress[1]}")
