"""A trained folder becomes a version: stored, proved by a fresh process, then @challenger."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import RegisterConfig, TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import home, sha256_folder
from ytrainer_core.registry.client import registry_client, registry_errors
from ytrainer_core.registry.layout import form_of, in_form, lay_out
from ytrainer_core.registry.lineage import lineage_tags, own_tags, stored_tags
from ytrainer_core.registry.listing import versions_of
from ytrainer_core.registry.outputs import how_to_repeat
from ytrainer_core.registry.publish import publish
from ytrainer_core.registry.versions import (
    CHALLENGER,
    EVALUATION_TAG,
    GATE_TAG,
    JUDGED_TAG,
    MAX_DELTA_TAG,
    METRIC_PREFIX,
    PROOF_TAG,
    REASONS_TAG,
    TRAINED_SHA256_TAG,
    Version,
    metrics_of,
    uri_of,
)
from ytrainer_core.tracking import (
    INJECTED_RUN_VARIABLE,
    PARENT_RUN_VARIABLE,
    Run,
    experiment_id,
    registry_uri,
    tracking_uri,
)
from ytrainer_core.training.parents import trained_digest
from ytrainer_core.verify import FORM_TAG, TRUST_FLAG, Verification

if TYPE_CHECKING:
    from ytrainer_core.training.model import ModelCard

_logger = logging.getLogger(__name__)
_VERDICT_TAGS = (GATE_TAG, EVALUATION_TAG, JUDGED_TAG)


def register_model(
    folder: Path, config: RegisterConfig, *, run: Run, tags: Mapping[str, str]
) -> Version:
    """Register a trained model folder, prove it, make it @challenger, and publish it if asked to.

    tags: what the caller knows of the version, e.g. {"ytrainer.gate": "passed",
    "ytrainer.metric.eval_loss": "1.9"}.
    The same model with the same verdict and tags is registered once: done again, its version is
    proved again and returned.
    Raises RegistryError where the registry refuses or the proof fails; a version
    that was made by then stays, tagged ytrainer.proof=failed, without an alias.
    """
    from ytrainer_core.training.model import read_card

    card = read_card(folder)
    form = form_of(folder, card, config)
    given = {**own_tags(config.registry), **tags, FORM_TAG: form}
    trained = trained_digest(folder)
    client = registry_client(config.tracking)
    again = how_to_repeat(folder)
    with registry_errors(f"'{config.registry.name}' could not be read", again):
        wanted = {**given, TRAINED_SHA256_TAG: trained}
        earlier = _registered_before(client, config.registry.name, wanted)
    version = _proved_again(client, earlier, config) if earlier else None
    if version is None:
        with registry_errors(f"'{config.registry.name}' could not be registered", again):
            lineage = lineage_tags(client, card, trained, run, config.tracking)
            made = _store(client, folder, card, config, run, {**given, **lineage})
        version = _proved(client, made, config)
    with registry_errors(f"{version.uri} was proved, but could not be made @{CHALLENGER}", again):
        client.set_registered_model_alias(version.name, CHALLENGER, str(version.version))
    if not config.registry.publish_to or given.get(GATE_TAG) == "rejected":
        return version
    place = publish(version.uri, config.registry.publish_to, tracking=config.tracking)
    return replace(version, published=place)


def _registered_before(client: Any, model: str, wanted: Mapping[str, str]) -> Any:
    """The newest proved version with these tags; None without one.

    Measured numbers may differ in the last digit, so they do not count, nor sentences with them.
    """
    asked: dict[str, str | None] = {
        **dict.fromkeys(_VERDICT_TAGS),  # None: a version with a verdict is another one
        **{name: value for name, value in wanted.items() if not _is_measured(name)},
        PROOF_TAG: "passed",
    }
    for version in versions_of(client, model):
        if all(version.tags.get(name) == value for name, value in asked.items()):
            return version
    return None


def _is_measured(tag: str) -> bool:
    return tag == REASONS_TAG or tag.startswith(METRIC_PREFIX)


def _proved_again(client: Any, found: Any, config: RegisterConfig) -> Version | None:
    """A version registered before, if what is stored of it is still the trained model."""
    name, number = str(found.name), int(found.version)
    try:
        proof = _prove(uri_of(name, number), config)
    except RegistryError as error:
        _logger.warning("The model is registered already, but is stored anew: %s", error)
        return None
    return Version(name, number, proof.uri, proof.max_delta, is_new=False)


def _store(
    client: Any,
    folder: Path,
    card: ModelCard,
    config: RegisterConfig,
    run: Run,
    tags: Mapping[str, str],
) -> Version:
    """Lay out, upload, and create the version. max_delta: what merging changed."""
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".register.") as scratch:
        trained, merge_delta = in_form(folder, card, tags[FORM_TAG], Path(scratch))
        logged = _new_logged_model(client, config, run, card, tags[FORM_TAG])
        with _finalized(client, logged):
            staged = lay_out(trained, logged, Path(scratch) / "staged", config.model)
            files = sha256_folder(staged)
            client.log_model_artifacts(logged.model_id, str(staged))
    name = config.registry.name
    stored = stored_tags(files, logged.model_id)
    number = _new_version(client, name, logged, run, {**tags, **stored}, config.tracking)
    _log_metrics(client, logged.model_id, run, tags)
    return Version(name, number, uri_of(name, number), merge_delta)


def _proved(client: Any, made: Version, config: RegisterConfig) -> Version:
    """The version after its proof, which its tags tell of, one way or the other."""
    number = str(made.version)
    try:
        proof = _prove(made.uri, config)
    except RegistryError as error:
        client.set_model_version_tag(made.name, number, PROOF_TAG, "failed")
        failure = str(error)[:5000]
        client.set_model_version_tag(made.name, number, f"{PROOF_TAG}_failure", failure)
        raise
    max_delta = max(proof.max_delta, made.max_delta)
    with registry_errors(f"{made.uri} was proved, but could not be tagged so"):
        client.set_model_version_tag(made.name, number, MAX_DELTA_TAG, repr(max_delta))
        client.set_model_version_tag(made.name, number, PROOF_TAG, "passed")
    return replace(made, max_delta=max_delta)


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


@contextmanager
def _finalized(client: Any, logged: Any) -> Iterator[None]:
    """End a LoggedModel as READY, or FAILED after an error."""
    try:
        yield
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")


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
