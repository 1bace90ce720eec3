"""What every benchmark shares: cases in processes of their own, medians, memory, tables.

A case is a dict of settings. It runs alone in a fresh process of the same module, so that its
peak memory is its own and no case warms a cache for the next. The process that starts the
cases imports no torch: on Linux a child's ru_maxrss begins at its parent's size.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Case = Mapping[str, Any]
Figures = dict[str, Any]

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
MIB = 2**20

_ANSWER = "figures: "
"""What the line of a child's output begins with that holds its figures."""

_PACKAGES = ("torch", "transformers", "peft", "trl", "liger-kernel")


class BenchmarkError(SystemExit):
    """The benchmark cannot go on; shown without a traceback."""


def parser(module_doc: str, repeats: int = 3) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=DATA, help="folder of gsm8k_*.jsonl")
    options.add_argument("--repeats", type=int, default=repeats, help="runs of every case")
    options.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of every case"
    )
    return options


def answer(measure: Callable[[Case], Figures]) -> None:
    """In the child: run the case that stands in `--case` and print its figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--case", required=True, type=json.loads)
    print(_ANSWER + json.dumps(measure(options.parse_args().case)), flush=True)


def run_case(module: str, case: Case, threads: int) -> Figures:
    """Run one case in a process of its own. Raises BenchmarkError with the end of its output."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", module, "--case", json.dumps(case)],
        cwd=ROOT,
        env={**os.environ, **quiet, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in child.stdout.splitlines() if line.startswith(_ANSWER)]
    if child.returncode or not answers:
        tail = "\n".join((child.stdout + child.stderr).splitlines()[-15:])
        raise BenchmarkError(f"the case {dict(case)} ended with {child.returncode}:\n{tail}")
    figures: Figures = json.loads(answers[-1].removeprefix(_ANSWER))
    print(f"  {case['name']}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return figures


def run_interleaved(
    module: str, cases: Sequence[Case], repeats: int, threads: int
) -> dict[str, list[Figures]]:
    """Figures of every run by the case's name; one round after the other, not case by case.

    What disturbs the machine for a while then disturbs all cases, not one of them.
    """
    found: dict[str, list[Figures]] = {case["name"]: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            found[case["name"]].append(run_case(module, case, threads))
    return found


def median(runs: Iterable[Figures], key: str) -> float:
    """Median of one figure over the runs of a case."""
    return statistics.median(float(run[key]) for run in runs)


def spread(runs: Iterable[Figures], key: str, digits: int = 0) -> str:
    """'median (least - greatest)' of one figure over the runs of a case."""
    values = sorted(float(run[key]) for run in runs)
    least, middle, most = (
        f"{value:,.{digits}f}" for value in (values[0], statistics.median(values), values[-1])
    )
    return middle if len(values) == 1 else f"{middle} ({least} - {most})"


def resident_bytes() -> tuple[int, int]:
    """(now, greatest so far) of this process's resident memory."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        sizes = {words[0]: int(words[1]) * 1024 for words in lines if words[0].startswith("Vm")}
        return sizes["VmRSS:"], sizes["VmHWM:"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    import psutil

    return psutil.Process().memory_info().rss, peak


def require(package: str, extra: str = "bench") -> None:
    """Refuse to go on without a package that only benchmarks need."""
    if importlib.util.find_spec(package) is None:
        raise BenchmarkError(
            f"this benchmark compares with {package}, which is not installed: "
            f"pip install 'ytrainer[{extra}]'"
        )


def machine(threads: int) -> list[tuple[str, str]]:
    """Rows that say what measured: processor, memory, versions, commit."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return [
        ("processor", f"{_processor()}, {os.cpu_count()} cores, {threads} threads a case"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("versions", f"Python {platform.python_version()}, {', '.join(versions)}"),
        ("commit", _commit()),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it also reads as text."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    printed = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    return "\n".join(
        [printed[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *printed[1:]]
    )
