"""What a trigger tells: result.json for machines, a Markdown page for the job that called it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ytrainer_core.errors import Cancelled, ConfigError, DataError, GateRejected, TimedOut
from ytrainer_core.files import write_json, write_text

Outcome = Literal[
    "promoted", "rejected", "failed", "cancelled", "timed_out", "unchanged", "invalid"
]

EXIT_CODES: dict[Outcome, int] = {
    "promoted": 0,
    "invalid": 2,
    "rejected": 3,
    "failed": 4,
    "cancelled": 5,
    "timed_out": 6,
    "unchanged": 7,
}
"""How the command ends."""

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
OUTPUT_VARIABLE = "GITHUB_OUTPUT"
"""Environment variables: files that GitHub's runner shows, and hands to the steps that follow."""

_ERRORS: tuple[tuple[type[BaseException], Outcome], ...] = (
    (GateRejected, "rejected"),
    (Cancelled, "cancelled"),
    (TimedOut, "timed_out"),
    (ConfigError, "invalid"),
    (DataError, "invalid"),
)

_TITLES: dict[Outcome, str] = {
    "promoted": "✅ {version} is the champion",
    "rejected": "❌ the gate rejected {version}",
    "failed": "❌ the retraining failed",
    "cancelled": "⏹ the retraining was cancelled",
    "timed_out": "⏱ the retraining took too long and was ended",
    "unchanged": "✅ nothing changed, nothing was trained",
    "invalid": "❌ the config or the data is wrong",
}


@dataclass
class Result:
    """One call of the trigger.

    changes: what differs from `previous`, the version it was compared with. tasks: step -> state.
    run: id (or folder) of the pipeline's run; url: where a person sees it. reasons: the gate's, or
    why it failed. seconds: of the whole call.
    """

    pipeline: str
    outcome: Outcome = "failed"
    previous: str = ""
    changes: list[str] = field(default_factory=list)
    init_from: str = ""
    pipeline_version: str = ""
    run: str = ""
    url: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    version: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """How the command ends."""
        return EXIT_CODES[self.outcome]

    def tree(self) -> dict[str, Any]:
        """The content of result.json."""
        return {**asdict(self), "exit_code": self.exit_code}

    def end_with(self, error: BaseException) -> None:
        """Take over what an error says of how it ended."""
        self.outcome = next((told for kind, told in _ERRORS if isinstance(error, kind)), "failed")
        said = [str(fault) for fault in getattr(error, "faults", ())] or [
            f"{type(error).__name__}: {error}".rstrip(": ")
        ]
        self.reasons = [line for fault in said for line in fault.splitlines() if line.strip()]


def write(result: Result, folder: Path) -> None:
    """result.json and summary.md in a folder; the page also where GitHub's runner wants it."""
    write_json(folder / "result.json", result.tree())
    write_text(folder / "summary.md", page(result))
    _append(SUMMARY_VARIABLE, page(result))
    _append(OUTPUT_VARIABLE, f"outcome={result.outcome}\nversion={result.version}\n")


def page(result: Result) -> str:
    """The Markdown page."""
    lines = [f"## {_TITLES[result.outcome].format(version=result.version or 'the model')}", ""]
    lines += _facts(result)
    if result.changes:
        lines += ["**What changed**", "", *(f"- {_escaped(each)}" for each in result.changes), ""]
    if result.reasons:
        title = "The gate" if result.outcome in ("promoted", "rejected") else "Why"
        lines += [f"**{title}**", "", *(f"- {_escaped(each)}" for each in result.reasons), ""]
    if result.metrics:
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in sorted(result.metrics.items())]
        lines += [""]
    if result.tasks:
        lines += ["| step | state |", "|---|---|"]
        lines += [f"| {name} | {state} |" for name, state in result.tasks.items()]
        lines += [""]
    return "\n".join(lines)


def _facts(result: Result) -> list[str]:
    told = {
        "pipeline": result.pipeline_version or result.pipeline,
        "compared with": result.previous,
        "training went on from": result.init_from,
        "run": f"[{result.run}]({result.url})" if result.url else result.run,
        "time": f"{result.seconds / 60:.1f} min" if result.seconds else "",
    }
    return [f"- {name}: {value}" for name, value in told.items() if value] + [""]


def _append(variable: str, text: str) -> None:
    """Add to the file that a variable names, if it names one."""
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _escaped(text: str) -> str:
    """A line that Markdown and HTML leave as it is."""
    for sign in "\\`*_<>|":
        text = text.replace(sign, f"\\{sign}")
    return text
