"""`ytrainer demo`: the main job on a generated corpus, with one table at the end."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ytrainer_core.cli.console import err, print_summary, relative

if TYPE_CHECKING:
    from pipelines.local import PipelineResult

_KIB_PER_GIB = 1024**2


def demo(
    base_only: bool = typer.Option(
        False, "--base-only", help="Only generate the corpora and pre-train the base model."
    ),
) -> None:
    """Generate a corpus, pre-train a tiny base, and run the finetune pipeline on it."""
    from pipelines.local import run_local
    from ytrainer_core.config import TrackingConfig
    from ytrainer_core.demo.recipe import FINETUNE, MODEL_NAME
    from ytrainer_core.demo.resources import locate
    from ytrainer_core.tracking import tracking_uri

    started = time.monotonic()
    base = Path(locate("demo:base"))
    base_seconds = time.monotonic() - started
    if base_only:
        print_summary("demo", {"base model": relative(base)})
        return
    err.print(f"[green]✓[/] {'base model':10} {base_seconds:6.1f} s")
    result = run_local("finetune", FINETUNE)
    planted = Path(locate("demo:planted"))
    print_summary("ytrainer demo", demo_table(result, planted, base_seconds))
    uri = f"models:/{MODEL_NAME}@champion"
    bin_ = relative(Path(sys.executable).parent)
    store = tracking_uri(TrackingConfig())
    # plain lines, not a table: they are there to be copied
    print(f"# the reports: {relative(result.folder / 'reports')}/*.html")
    print(f"{bin_}/mlflow ui --backend-store-uri {store}")
    print(f"{bin_}/ytrainer chat {uri} --once $'{_question()}'")
    print(f"{bin_}/ytrainer registry verify {uri}")


def _question() -> str:
    from ytrainer_core.demo.corpus import INSTRUCTION

    return f"{INSTRUCTION}\\nMy Veloran kettle arrived broken, I want my money back."


def demo_table(result: PipelineResult, planted: Path, base_seconds: float) -> dict[str, str]:
    """The rows of the closing table."""
    stages = result.stages
    told = {name: stage["metrics"] for name, stage in stages.items()}
    judged = told["evaluate"]
    caught = caught_defects(result, planted)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = {"base": base_seconds} | {
        name: metrics["stage_seconds"] for name, metrics in told.items()
    }
    return {
        "rows": f"{told['validate']['rows_read']:.0f} read · "
        f"{told['validate']['rows_quarantined']:.0f} dropped · "
        f"{told['score']['rows_flagged']:.0f} flagged",
        "planted defects": " · ".join(
            f"{kind} {hit}/{total}" for kind, (hit, total) in sorted(caught.items())
        ),
        "target loss": f"{judged['base_target_loss']:.3f} -> {judged['target_loss']:.3f} nats",
        "exact match": f"{judged['base_exact_match']:.3f} -> {judged['exact_match']:.3f}",
        "general loss": f"{judged['base_general_loss']:.3f} -> {judged['general_loss']:.3f} nats "
        f"({judged['general_loss'] / judged['base_general_loss'] - 1:+.1%})",
        "gate": "passed" if result.passed else "rejected",
        "model": f"{result.version} @champion",
        "seconds": " · ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + f" · all {result.seconds + base_seconds:.0f}",
        "peak memory": f"{max(children, own) / _KIB_PER_GIB:.2f} GiB",
    }


def caught_defects(result: PipelineResult, planted: Path) -> dict[str, tuple[int, int]]:
    """Kind of planted defect -> (quarantined or flagged, planted)."""
    from ytrainer_core.data.corpus import read_quarantine

    dataset = Path(result.stages["score"]["outputs"]["dataset"])
    seen = {rejected.origin for rejected in read_quarantine(dataset)}
    seen |= set(result.stages["score"]["values"]["flagged"])
    places = [origin.rsplit(":", 1) for origin in seen]
    lines = {int(line) for path, line in places if Path(path).name == "train.json"}
    total: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for defect in json.loads(planted.read_text(encoding="utf-8")):
        total[defect["kind"]] += 1
        hit[defect["kind"]] += defect["line"] in lines
    return {kind: (hit[kind], total[kind]) for kind in total}
