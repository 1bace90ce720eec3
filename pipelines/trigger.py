"""Retrain where something has changed, wait, and tell what came of it: what CI calls.

Data, config, base model and image are compared with the tags of the champion and of the versions
after it. Where all are the same, nothing runs. Otherwise the pipeline runs, here or on a cluster,
and this call ends as the run does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipelines import local, result
from pipelines.api import Api
from pipelines.cluster import Cluster
from pipelines.configs import TUNING_CONFIGS
from pipelines.inputs import Inputs, inputs_of
from pipelines.remote import Job, require_reachable, run_remote
from pipelines.result import Result
from pipelines.steps import sigterm_interrupts
from pipelines.versions import Registered, champion_of, made_of, settled_with, versions_of
from ytrainer_core.config import FinetuneConfig, narrow
from ytrainer_core.config.base import set_dotted
from ytrainer_core.errors import (
    Cancelled,
    ConfigError,
    GateRejected,
    RegistryError,
    StageFailed,
)
from ytrainer_core.files import sha256_json
from ytrainer_core.registry.versions import TRIGGER_PREFIX

T = TypeVar("T")

_CHAMPION_TAG = f"{TRIGGER_PREFIX}champion"
_NAME_CHARACTERS = 12
_ADAPTER = "adapter"


@dataclass(frozen=True)
class Request:
    """What one call of the trigger asks for.

    tree: the config. host: URL of a Kubeflow API; empty runs here. limit, patience, poll: seconds;
    a limit of 0 is none. out: folder for result.json and summary.md. say: told of what goes on.
    """

    pipeline: str
    tree: Mapping[str, Any]
    path: Path | None
    host: str
    force: bool
    limit: float
    patience: float
    poll: float
    out: Path
    say: Callable[[str], None]


def trigger(request: Request) -> Result:
    """Retrain if anything changed. Returns a result that is 'promoted' or 'unchanged'.

    However it ends, result.json and summary.md say how. Raises GateRejected, Cancelled, TimedOut,
    or the error of what failed; of what was interrupted nothing goes on running.
    """
    started = time.monotonic()
    told = Result(request.pipeline)
    try:
        with sigterm_interrupts():
            _retrain(request, told, started)
    except KeyboardInterrupt as interrupt:
        error = Cancelled("cancelled. The same command goes on where this one was stopped.")
        told.end_with(error)
        raise error from interrupt
    except BaseException as error:
        told.end_with(error)
        raise
    finally:
        told.seconds = time.monotonic() - started
        result.write(told, request.out)
    return told


def _retrain(request: Request, told: Result, started: float) -> None:
    config = narrow(TUNING_CONFIGS[request.pipeline], request.tree, request.path)
    if request.host:
        require_reachable(config)
        _require_shared_registry(config)
    inputs = inputs_of(config, remote=bool(request.host))
    versions = versions_of(config)
    champion = champion_of(versions)
    settled = settled_with(versions, inputs)
    if settled and not request.force:
        told.outcome, told.previous = "unchanged", settled.uri
        told.reasons = [
            f"nothing changed since {settled.described}: data, config, base model and image are "
            "the same. --force trains all the same."
        ]
        return
    told.previous = champion.uri if champion else ""
    told.changes = _changes(inputs, champion, settled)
    for line in told.changes:
        request.say(line)
    tree = _prepared(request, config, inputs, champion, told)
    if request.host:
        deadline = started + request.limit if request.limit else float("inf")
        api = Api(request.host, patience=request.patience, deadline=deadline, say=request.say)
        name = _run_name(request, inputs, champion)
        job = Job(request.pipeline, tree, name, config.tracking.experiment)
        run_remote(Cluster(api), job, told, poll=request.poll, say=request.say)
        _fetch_verdict(request, config, inputs, told)
    else:
        _run_here(request, tree, told)


def _changes(inputs: Inputs, champion: Registered | None, settled: Registered | None) -> list[str]:
    """Why this training is begun, a line each."""
    if settled:
        return [f"nothing since {settled.described}; trained all the same (--force)"]
    if champion is None:
        return ["there is no champion yet"]
    if not any(name.startswith(TRIGGER_PREFIX) for name in champion.tags):
        return [f"{champion.uri} was not trained by this command, so what made it is not known"]
    return inputs.changes(champion.tags) or [
        f"nothing since {champion.uri}, but a run after it broke off"
    ]


def _prepared(
    request: Request,
    config: FinetuneConfig,
    inputs: Inputs,
    champion: Registered | None,
    told: Result,
) -> dict[str, Any]:
    """The config tree of the run: its version's tags, and the champion it goes on from."""
    tree: dict[str, Any] = json.loads(json.dumps(request.tree))
    # the champion is no input, but what a cluster has cached of another's run must not be used
    tags = inputs.tags() | {_CHAMPION_TAG: champion.uri if champion else "none"}
    own = [f"{name}={value}" for name, value in tags.items()]
    set_dotted(tree, "registry.tags", [*config.registry.tags, *own])
    if request.pipeline == "retrain" and champion and not config.model.init_from:
        doubt = _not_continuable(champion, inputs)
        if doubt:
            told.changes.append(f"training begins at the base: {doubt}")
            request.say(told.changes[-1])
        else:
            set_dotted(tree, "model.init_from", champion.uri)
            told.init_from = champion.uri
    return tree


def _not_continuable(champion: Registered, inputs: Inputs) -> str:
    """Why training cannot go on from the champion; empty where it can."""
    form = champion.tags.get("ytrainer.form", _ADAPTER)
    if form != _ADAPTER:
        return f"{champion.uri} is a {form} model, and only an adapter is trained on"
    known = champion.tags.get(f"{TRIGGER_PREFIX}base")
    if known and known != inputs.digests["base"]:
        return f"{champion.uri} is an adapter on another base"
    return ""


def _run_name(request: Request, inputs: Inputs, champion: Registered | None) -> str:
    """A name that says what the run is made of, so that an unfinished one is found again."""
    made_of = sha256_json([dict(inputs.digests), champion.uri if champion else ""])
    return f"{request.pipeline}-{made_of[:_NAME_CHARACTERS]}"


def _require_shared_registry(config: FinetuneConfig) -> None:
    if not (config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise ConfigError(
            "tracking.uri: is not set, so the registry would be a file on this machine, which the "
            "cluster does not see. Set it, or MLFLOW_TRACKING_URI, to the server of the steps."
        )


def _fetch_verdict(request: Request, config: FinetuneConfig, inputs: Inputs, told: Result) -> None:
    """What the registry says of the version that a succeeded run has made.

    Its tags are our inputs, so it is found whatever the pipeline calls its outputs, and after a
    lost connection as well.
    """
    version = made_of(_patiently(lambda: versions_of(config), request), inputs)
    if version is None:
        raise StageFailed(
            f"{told.url}: the run succeeded, but '{config.registry.name}' has no version with its "
            "tags. Do its steps write to the MLflow that tracking.uri names here?"
        )
    told.version, told.metrics = version.uri, version.metrics
    if not version.passed:
        reasons = "\n".join(version.reasons)
        raise GateRejected(f"the gate rejected {version.uri}; no alias was moved.", reasons)
    if not version.is_champion:
        raise StageFailed(
            f"{version.uri}: passed the gate, but another version is champion now. Look at both "
            f"with `ytrainer registry show {config.registry.name}`."
        )
    told.outcome, told.reasons = "promoted", version.reasons


def _patiently(read: Callable[[], T], request: Request) -> T:
    """What the registry answers, asked again for as long as the patience lasts."""
    until = time.monotonic() + request.patience
    while True:
        try:
            return read()
        except RegistryError as error:
            if time.monotonic() >= until:
                raise
            request.say(f"the registry does not answer ({error}); asking again")
            time.sleep(request.poll)


def _run_here(request: Request, tree: dict[str, Any], told: Result) -> None:
    done = local.perform(request.pipeline, tree, limit=request.limit)
    told.run, told.version = str(done.folder), done.version
    told.tasks = dict.fromkeys(done.stages, "SUCCEEDED")
    told.metrics = done.stages["evaluate"]["metrics"]
    if not done.passed:
        raise local.rejection(done)
    told.outcome = "promoted"
    told.reasons = done.stages["evaluate"]["summary"].get("reasons", "").splitlines()
