"""A trained folder becomes a version: stored, proved by a fresh process, then @challenger."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core import __version__
from ytrainer_core.config import RegisterConfig, TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import home, sha256_folder, sha256_json
from ytrainer_core.registry.client import registry_client, registry_errors
from ytrainer_core.registry.layout import in_form, lay_out
from ytrainer_core.registry.versions import (
    CHALLENGER,
    MAX_DELTA_TAG,
    PROOF_TAG,
    Version,
    metrics_of,
)
from ytrainer_core.tracking import (
    INJECTED_RUN_VARIABLE,
    PARENT_RUN_VARIABLE,
    Run,
    experiment_id,
    git_sha,
    registry_uri,
    tracking_uri,
)
from ytrainer_core.verify import (
    BASE_REVISION_TAG,
    BASE_SHA256_TAG,
    BASE_TAG,
    FILES_TAG,
    FORM_TAG,
    TRUST_FLAG,
    Verification,
)

if TYPE_CHECKING:
    from ytrainer_core.training.model import ModelCard


def register_model(
    folder: Path, config: RegisterConfig, *, run: Run, tags: Mapping[str, str]
) -> Version:
    """Register a trained model folder, prove it, and make it @challenger.

    tags: what the caller knows of the version, e.g. {"ytrainer.gate": "passed",
    "ytrainer.metric.eval_loss": "1.9"}.
    Raises RegistryError where the registry refuses or the proof fails; a version
    that was made by then stays, tagged ytrainer.proof=failed, without an alias.
    """
    from ytrainer_core.training.model import read_card

    card = read_card(folder)
    client = registry_client(config.tracking)
    name = config.registry.name
    home().mkdir(parents=True, exist_ok=True)
    with (
        registry_errors(f"'{name}' could not be registered"),
        tempfile.TemporaryDirectory(dir=home(), prefix=".register.") as scratch,
    ):
        trained, form, merge_delta = in_form(folder, card, config, Path(scratch))
        logged = _new_logged_model(client, config, run, card, form)
        try:
            staged = lay_out(trained, logged, Path(scratch) / "staged", config.model)
            files = sha256_folder(staged)
            client.log_model_artifacts(logged.model_id, str(staged))
            client.finalize_logged_model(logged.model_id, "READY")
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        facts = _facts(card, form, files, logged.model_id, run)
        number = _new_version(client, name, logged, run, {**tags, **facts}, config.tracking)
        _log_metrics(client, logged.model_id, run, tags)
    uri = f"models:/{name}/{number}"
    try:
        proof = _prove(uri, config)
    except RegistryError as error:
        client.set_model_version_tag(name, str(number), PROOF_TAG, "failed")
        client.set_model_version_tag(name, str(number), f"{PROOF_TAG}_failure", str(error)[:5000])
        raise
    with registry_errors(f"{uri} was proved, but could not be made @{CHALLENGER}"):
        max_delta = max(proof.max_delta, merge_delta)
        client.set_model_version_tag(name, str(number), MAX_DELTA_TAG, repr(max_delta))
        client.set_model_version_tag(name, str(number), PROOF_TAG, "passed")
        client.set_registered_model_alias(name, CHALLENGER, str(number))
    return Version(name, number, uri, max_delta)


def _new_logged_model(
    client: Any, config: RegisterConfig, run: Run, card: ModelCard, form: str
) -> Any:
    """A LoggedModel of the run (lineage), still without files."""
    from mlflow.entities import LoggedModelOutput

    if run.run_id:
        experiment = client.get_run(run.run_id).info.experiment_id
    else:
        experiment = experiment_id(client, config.tracking)
    logged = client.create_logged_model(
        experiment,
        name=re.sub(r"[^\w-]", "-", config.registry.name),
        source_run_id=run.run_id or None,
        params={"form": form, "base": card.base.name_or_path, "dtype": card.dtype},
    )
    if run.run_id:
        client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _facts(
    card: ModelCard, form: str, files: Mapping[str, str], model_id: str, run: Run
) -> dict[str, str]:
    """The tags by which a version can be traced, checked and rebuilt."""
    facts = {
        PROOF_TAG: "pending",
        FORM_TAG: form,
        BASE_TAG: card.base.name_or_path,
        BASE_REVISION_TAG: card.base.revision,
        BASE_SHA256_TAG: card.base.sha256,
        FILES_TAG: json.dumps(files),
        "ytrainer.files_sha256": sha256_json(files),
        "ytrainer.data_sha256": card.data_sha256,
        "ytrainer.config_sha256": sha256_json(card.config),
        "ytrainer.version": __version__,
        "ytrainer.git_sha": git_sha(),
        "ytrainer.model_id": model_id,
        "ytrainer.run_id": run.run_id,
        "ytrainer.training_run_id": card.run_id,
    }
    return {name: value for name, value in facts.items() if value}


def _new_version(
    client: Any, name: str, logged: Any, run: Run, tags: Mapping[str, str], tracking: TrackingConfig
) -> int:
    """Create the registered model where it is new, and a version of it."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A server resolves models:/<id> and wants the id; a local store would look in MLflow's
    # process-wide store, which need not be ours.
    remote = registry_uri(tracking).startswith("http")
    version = client.create_model_version(
        name,
        source=f"models:/{logged.model_id}" if remote else logged.artifact_location,
        run_id=run.run_id or None,
        tags=dict(tags),
        model_id=logged.model_id if remote else None,
    )
    link = json.dumps([{"name": name, "version": int(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return int(version.version)


def _log_metrics(client: Any, model_id: str, run: Run, tags: Mapping[str, str]) -> None:
    """Put the caller's metric tags on the logged model, so that MLflow can search by them."""
    from mlflow.entities import Metric

    if run.run_id and (metrics := metrics_of(tags)):
        now = int(time.time() * 1000)
        batch = [
            Metric(name, value, now, 0, model_id=model_id, run_id=run.run_id)
            for name, value in metrics.items()
        ]
        client.log_batch(run.run_id, metrics=batch)


def _prove(uri: str, config: RegisterConfig) -> Verification:
    """Verify a version in a fresh process: one that shares no memory with the training."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri(config.tracking),
        "MLFLOW_REGISTRY_URI": registry_uri(config.tracking),
    }
    for variable in (INJECTED_RUN_VARIABLE, PARENT_RUN_VARIABLE):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "ytrainer_core.verify", uri]
    if config.model.trust_remote_code:
        command.append(TRUST_FLAG)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RegistryError(
            f"{uri}: the process that was to prove it ended with {done.returncode} and no answer "
            f"(out of memory?). Run `ytrainer registry verify {uri}`.\n{last}"
        ) from None
    if "error" in answer:
        raise RegistryError(*answer["error"])
    return Verification(**answer)
