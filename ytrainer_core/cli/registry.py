"""Commands on registered models: list, show, register, verify, promote, roll back."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ytrainer_core.cli.arguments import AsJson
from ytrainer_core.cli.console import out, print_summary
from ytrainer_core.config import RegisterConfig, narrow

if TYPE_CHECKING:
    from rich.tree import Tree

    from ytrainer_core.registry import Ancestor, VersionDetails

registry_app = typer.Typer(
    help="Registered models: list, show, register, verify, promote, roll back.",
    no_args_is_help=True,
)

_Uri = typer.Argument(help="models:/NAME@champion or models:/NAME/3")

_SECTIONS = ("model", "registry", "tracking", "seed")
"""What registration reads of the config that a model was made with."""

_GROUPS = {
    "verdict": ("gate", "judged_against", "evaluation_digest", "rolled_back"),
    "proof": ("proof", "proof_failure", "max_delta", "form", "files_sha256", "model_sha256"),
    "comes from": (
        "parent",
        "base",
        "base_revision",
        "base_sha256",
        "data_sha256",
        "config_sha256",
    ),
    "made by": (
        "version",
        "git_sha",
        "image_digest",
        "pipeline_run_id",
        "training_run_id",
        "training_run_url",
        "run_id",
    ),
    "place": ("previous_champion", "previous_champion_of", "restored_from", "published"),
}
"""Tags ytrainer.<name>, in the order in which a person asks for them."""


@registry_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """All registered models, their versions and aliases."""
    from rich.table import Table

    from ytrainer_core import registry

    models = registry.list_models()
    if as_json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return
    table = Table("model", "version", "aliases", "gate", "proof", "form", "metrics")
    for model in models:
        for version in model.versions:
            metrics = " ".join(f"{k}={v:.3g}" for k, v in sorted(version.metrics.items()))
            table.add_row(
                model.name,
                str(version.version),
                ", ".join(version.aliases),
                version.gate,
                version.proof,
                version.form,
                metrics,
            )
    out.print(table)


@registry_app.command("show")
def show(
    uri: str = typer.Argument(help="models:/NAME/3, models:/NAME@champion, or NAME alone."),
    as_json: AsJson = False,
) -> None:
    """All that is known of one version, and its ancestry as a tree."""
    from ytrainer_core import registry

    details = registry.show(uri)
    if as_json:
        print(json.dumps(asdict(details), indent=2))
        return
    for title, rows in _groups(details).items():
        if rows:
            print_summary(title, rows)
    out.print(_tree(details.ancestry))


@registry_app.command("register")
def register(
    folder: Path = typer.Argument(
        help="What a training or a pipeline wrote: its output folder, or the model's own."
    ),
    name: str = typer.Option("", "--name", help="Registered model name, if not the config's."),
    evaluation: Path | None = typer.Option(
        None, "--evaluation", help="Verdict of the evaluate stage; a pipeline's folder has its own."
    ),
    as_json: AsJson = False,
) -> None:
    """Register a trained model with a proof; done again, it finds what is registered already."""
    from ytrainer_core.registry import find_output
    from ytrainer_core.stages.run import run_stage

    found = find_output(folder, evaluation)
    own = {key: found.sections[key] for key in _SECTIONS if key in found.sections}
    if name:
        own["registry"] = {**own.get("registry", {}), "name": name}
    inputs = {"model": str(found.model), "evaluation": str(found.evaluation or "")}
    result = run_stage("register", narrow(RegisterConfig, own), inputs=inputs, outputs={})
    if as_json:
        print(json.dumps({"metrics": result.metrics, "values": result.values}))
        return
    print_summary("registered", result.summary)


@registry_app.command("verify")
def verify(uri: str = _Uri) -> None:
    """Prove that what is registered is the model that was trained."""
    from ytrainer_core import registry
    from ytrainer_core.stages.run import quiet_libraries

    quiet_libraries()
    proof = registry.verify(uri)
    print_summary(
        "verified",
        {
            "version": proof.uri,
            "max |Δlogit|": f"{proof.max_delta:.3e} (allowed {proof.tolerance:.0e})",
            "files": f"{proof.files} with unchanged sha256",
        },
    )


@registry_app.command("promote")
def promote(
    uri: str = typer.Argument(help="models:/NAME/3"),
    force: bool = typer.Option(
        False, "--force", help="Even without the gate's consent, or against another champion."
    ),
) -> None:
    """Make a version the champion."""
    from ytrainer_core import registry

    done = registry.promote(uri, force=force)
    print_summary(
        "promoted" if done.changed else "nothing to do",
        {
            "champion": f"{done.name} version {done.version}" + _already(done.changed),
            "before": str(done.previous or "none"),
        },
    )


@registry_app.command("rollback")
def rollback(name: str = typer.Argument(help="Registered model name.")) -> None:
    """Make the version before the champion the champion again; done twice, it goes back once."""
    from ytrainer_core import registry

    done = registry.rollback(name)
    rows = {
        "champion": f"{done.name} version {done.version}" + _already(done.changed),
        "rolled back": f"version {done.previous}",
    }
    if not done.changed:
        rows["further back"] = f"ytrainer registry promote models:/{name}/VERSION --force"
    print_summary("rolled back" if done.changed else "nothing to do", rows)


def _already(changed: bool) -> str:
    return "" if changed else ", as it was"


def _groups(details: VersionDetails) -> dict[str, dict[str, str]]:
    """Title -> rows: the version, its metrics, ytrainer's tags by group, then everybody else's."""
    tags = dict(details.tags)
    summary = details.summary
    files = json.loads(tags.pop("ytrainer.files", "{}"))
    head = {
        "version": summary.uri,
        "aliases": ", ".join(summary.aliases) or "none",
        "created": _time(summary.created),
        "files": f"{len(files)}, each with its sha256",
    }
    groups = {"version": head}
    for title, names in _GROUPS.items():
        found = {name: tags.pop(f"ytrainer.{name}", "") for name in names}
        groups[title] = {name: value for name, value in found.items() if value}
    groups["metrics"] = {name: f"{value:.6g}" for name, value in sorted(summary.metrics.items())}
    left = {name for name in tags if not name.startswith("ytrainer.metric.")}
    groups["further tags"] = {name: tags[name] for name in sorted(left)}
    return groups


def _tree(node: Ancestor) -> Tree:
    """The ancestry as rich draws it."""
    from rich.tree import Tree

    tree = Tree(_label(node))
    for ancestor in node.ancestors:
        tree.add(_tree(ancestor))
    return tree


def _label(node: Ancestor) -> Any:
    from rich.text import Text

    said = [node.uri, *(f"@{alias}" for alias in node.aliases)]
    if node.state != "registered":
        said.append(f"({node.state})")
    if node.gate:
        said.append(f"· gate {node.gate}")
    if node.created:
        said.append(f"· {_time(node.created)}")
    return Text.assemble((f"{node.relation}: " if node.relation else "", "dim"), " ".join(said))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", timespec="seconds")
