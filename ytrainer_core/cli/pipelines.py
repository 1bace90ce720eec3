"""Commands on pipelines: list, compile, run."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from ytrainer_core.cli.arguments import AsJson, Words, read_words
from ytrainer_core.cli.console import err, print_summary, relative
from ytrainer_core.config.base import set_dotted
from ytrainer_core.errors import ConfigError

app = typer.Typer(help="Pipelines: list, compile, run.", no_args_is_help=True)


@app.command("list")
def list_pipelines() -> None:
    """Names and purposes."""
    from pipelines import PIPELINES

    print_summary(
        "pipelines",
        {name: (PIPELINES[name].description or "").splitlines()[0] for name in PIPELINES},
    )


@app.command("compile")
def compile_pipeline(
    name: str,
    words: Words = None,
    destination: Path | None = typer.Option(
        None, "--out", help="File to write; pipelines/compiled/NAME.yaml if not given."
    ),
    image: str = typer.Option(
        "", "--image", help="Image of all steps, best as REGISTRY/NAME@sha256:DIGEST."
    ),
) -> None:
    """Write the YAML that a Kubeflow cluster runs, placed as the config's section cluster says.

    Of a config, cluster and launch.nodes decide where the steps run; the rest is a run's to say.
    """
    from pipelines.arguments import placement_of
    from pipelines.compile import compile_to

    tree, _ = read_words(words)
    if image:
        set_dotted(tree, "cluster.image", image)
    if tree and destination is None:
        raise ConfigError(
            "pipelines/compiled holds what everybody runs. Say where your own goes: --out FILE."
        )
    path = destination or Path("pipelines") / "compiled" / f"{_known(name)}.yaml"
    compile_to(_known(name), path, placement_of(_known(name), tree))
    print(path)


@app.command("run")
def run(
    name: str,
    words: Words = None,
    local: bool = typer.Option(False, "--local", help="On this machine, without a cluster."),
    host: str = typer.Option("", "--host", help="URL of a Kubeflow Pipelines API."),
    as_json: AsJson = False,
) -> None:
    """Run a pipeline here or on a cluster; exits 3 where the gate rejects the model."""
    if local == bool(host):
        raise ConfigError("say where to run: --local, or --host URL.")
    tree, path = read_words(words)
    if host:
        from pipelines.remote import submit

        url = submit(_known(name), tree, path, host, say=lambda line: err.print(line, markup=False))
        print_summary("submitted", {"run": url})
        return
    from pipelines.local import run_local

    result = run_local(_known(name), tree, path)
    if as_json:
        print(json.dumps({"version": result.version, "stages": result.stages}, indent=2))
        return
    for stage, told in result.stages.items():
        print_summary(stage, told["summary"])
    done = {"seconds": f"{result.seconds:.0f}", "reports": relative(result.folder / "reports")}
    if result.version:
        done = {"version": result.version, **done}
    if result.passed:
        done = {"gate": "passed", **done}
    print_summary(name, done)


def _known(name: str) -> str:
    from pipelines import PIPELINES

    if name not in PIPELINES:
        raise ConfigError(f"'{name}' is no pipeline. Pipelines: {', '.join(PIPELINES)}.")
    return name
