"""`ytrainer trigger`: retrain if anything changed, wait, and end with a code for CI."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from ytrainer_core.cli.arguments import AsJson, Words, read_words
from ytrainer_core.cli.console import err, print_summary, relative
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home

_SECONDS_PER_MINUTE = 60.0


def trigger(
    words: Words = None,
    local: bool = typer.Option(False, "--local", help="On this machine, without a cluster."),
    host: str = typer.Option("", "--host", help="URL of a Kubeflow Pipelines API."),
    pipeline: str = typer.Option("retrain", "--pipeline", help="Pipeline to run."),
    timeout: float = typer.Option(
        0.0,
        "--timeout",
        min=0.0,
        metavar="MIN",
        help="Minutes after which the run is ended; 0: none.",
    ),
    patience: float = typer.Option(
        10.0, "--patience", min=0.0, metavar="MIN", help="Minutes for which a silent API is borne."
    ),
    poll: float = typer.Option(
        5.0, "--poll", min=0.01, metavar="SECONDS", help="Seconds between two looks at the run."
    ),
    force: bool = typer.Option(False, "--force", help="Train even if nothing changed."),
    out: Path | None = typer.Option(
        None, "--out", metavar="DIR", help="Folder for result.json and summary.md."
    ),
    as_json: AsJson = False,
) -> None:
    """Retrain if data, config, base model or image changed; exits 7 where nothing did.

    Exit codes: 0 promoted · 2 config or data wrong · 3 the gate rejected the model · 4 failed ·
    5 cancelled · 6 timed out · 7 nothing changed.
    """
    from pipelines.configs import TUNING_CONFIGS
    from pipelines.trigger import Request
    from pipelines.trigger import trigger as call

    if local == bool(host):
        raise ConfigError("say where to run: --local, or --host URL.")
    if pipeline not in TUNING_CONFIGS:
        raise ConfigError(
            f"--pipeline {pipeline}: is no pipeline that a gate judges. "
            f"Take {', '.join(TUNING_CONFIGS)}."
        )
    tree, path = read_words(words)
    folder = out or home() / "triggers" / time.strftime(f"{pipeline}-%Y%m%d-%H%M%S")
    request = Request(
        pipeline=pipeline,
        tree=tree,
        path=path,
        host=host,
        force=force,
        limit=timeout * _SECONDS_PER_MINUTE,
        patience=patience * _SECONDS_PER_MINUTE,
        poll=poll,
        out=folder,
        say=lambda line: err.print(line, markup=False, soft_wrap=True),
    )
    try:
        told = call(request)
    finally:
        if as_json and (folder / "result.json").is_file():
            print((folder / "result.json").read_text(encoding="utf-8"), end="")
    if not as_json and told.outcome == "unchanged":
        print(told.reasons[0])
    if not as_json and told.outcome == "promoted":
        print_summary(
            "trigger",
            {
                "champion": told.version,
                "instead of": told.previous or "none",
                "went on from": told.init_from or "the base model",
                "run": told.url or relative(Path(told.run)),
                "result": relative(folder / "result.json"),
            },
        )
    if told.exit_code:
        raise typer.Exit(told.exit_code)
