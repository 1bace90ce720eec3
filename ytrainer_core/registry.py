"""The model registry, where nothing counts as registered until it is proved to reload unchanged.

MLflow can destroy an adapter without a word (facts/mlflow.md): what it loads
back has random weights and answers as if nothing had happened. So every version
is loaded by a fresh process from what was stored, its files are compared with
the digests taken before the upload, and its logits on a probe batch with those
of the model that was trained. Only then does an alias move.

    register_model ─▶ @challenger      promote ─▶ @champion      rollback: the one before

This file and tracking.py are the only ones that import mlflow.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core import __version__
from ytrainer_core.config import ModelConfig, RegisterConfig, TrackingConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import atomic_folder, home, sha256_folder, sha256_json
from ytrainer_core.tracking import (
    INJECTED_RUN_VARIABLE,
    PARENT_RUN_VARIABLE,
    Run,
    connect,
    experiment_id,
    first_line,
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
    MERGED_TOLERANCE,
    OTHER_DEVICE_TOLERANCE,
    TRUST_FLAG,
    Verification,
    check_files,
    checked_base,
    compare_probe,
    find_base,
)

if TYPE_CHECKING:
    from ytrainer_core.training.model import ModelCard

CHALLENGER = "challenger"
CHAMPION = "champion"

PROOF_TAG = "ytrainer.proof"
_ADAPTER_FOLDER = "peft"
_TOKENIZER_FOLDER = "components/tokenizer"
"""Where MLflow's transformers flavor puts the parts of a model."""

GATE_TAG = "ytrainer.gate"
MAX_DELTA_TAG = "ytrainer.max_delta"
PREVIOUS_TAG = "ytrainer.previous_champion"
METRIC_PREFIX = "ytrainer.metric."
"""Tags `ytrainer.metric.<name>` hold numbers: shown by list_models, logged on the logged model."""

_REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "peft", "safetensors")
_DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Version:
    """A registered and proved version. max_delta: largest |logit difference| to the trained one."""

    name: str
    version: int
    uri: str
    max_delta: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which version holds @champion now, and which held it before (0: none)."""

    name: str
    version: int
    previous: int


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """One row of `ytrainer registry list`. created: seconds since 1970."""

    version: int
    uri: str
    aliases: tuple[str, ...]
    proof: str
    gate: str
    form: str
    run_id: str
    created: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A registered model with its versions, newest first."""

    name: str
    versions: tuple[VersionSummary, ...]


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
    client = _client(config.tracking)
    name = config.registry.name
    home().mkdir(parents=True, exist_ok=True)
    with (
        _registry_errors(f"'{name}' could not be registered"),
        tempfile.TemporaryDirectory(dir=home(), prefix=".register.") as scratch,
    ):
        trained, form, merge_delta = _in_form(folder, card, config, Path(scratch))
        logged = _new_logged_model(client, config, run, card, form)
        try:
            staged = _stage(trained, logged, Path(scratch) / "staged", config.model)
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
    with _registry_errors(f"{uri} was proved, but could not be made @{CHALLENGER}"):
        max_delta = max(proof.max_delta, merge_delta)
        client.set_model_version_tag(name, str(number), MAX_DELTA_TAG, repr(max_delta))
        client.set_model_version_tag(name, str(number), PROOF_TAG, "passed")
        client.set_registered_model_alias(name, CHALLENGER, str(number))
    return Version(name, number, uri, max_delta)


def verify(
    uri: str,
    *,
    tracking: TrackingConfig | None = None,
    base_path: str = "",
    trust_remote_code: bool = False,
) -> Verification:
    """Prove that what lies in the registry is the model that was trained.

    uri: models:/NAME/3 or models:/NAME@champion. base_path (or YTRAINER_BASE_PATH):
    where the base model lies now. Files first, then the base, then the logits.
    Raises RegistryError naming the first of these that differs.
    """
    with _downloaded(uri, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        base = checked_base(uri, version.tags, base_path)
        model, _ = _load(folder, base, trust_remote_code)
        delta, tolerance = compare_probe(model, folder)
        if not delta <= tolerance:  # NaN is a difference too
            raise RegistryError(
                f"{uri}: is not the model that was trained: on the probe batch its logits differ "
                f"by up to {delta:.3g}, allowed is {tolerance:.3g}. Register the trained folder "
                "again; if its weights were changed after training, train again."
            )
        files = len(json.loads(version.tags[FILES_TAG]))
        return Verification(uri, delta, tolerance, files, version.tags.get(BASE_SHA256_TAG, ""))


def load_registered(
    uri: str,
    *,
    tracking: TrackingConfig | None = None,
    base_path: str = "",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a registered version in eval mode, its files and base checked."""
    with _downloaded(uri, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        return _load(folder, checked_base(uri, version.tags, base_path), trust_remote_code)


def fetch_registered(uri: str, *, tracking: TrackingConfig | None = None) -> Path:
    """A registered adapter as the folder that was trained, checked, below home()/cache/models.

    Raises RegistryError for a version whose files are not those that were registered, and for a
    full model.
    """
    with _downloaded(uri, tracking) as (version, folder):
        check_files(uri, version.tags, folder)
        if not (folder / _ADAPTER_FOLDER).is_dir():
            raise RegistryError(
                f"{uri}: is a full model and its own base, so there is no adapter to go on from. "
                "Give its trained folder as model.name_or_path."
            )
        kept = home() / "cache" / "models" / f"{version.name}-{version.version}"
        with atomic_folder(kept) as scratch:
            for part in (folder, folder / _ADAPTER_FOLDER, folder / _TOKENIZER_FOLDER):
                for file in filter(Path.is_file, part.iterdir()):
                    shutil.copyfile(file, scratch / file.name)
        return kept


def promote(uri: str, *, force: bool = False, tracking: TrackingConfig | None = None) -> Promotion:
    """Give a version the alias @champion; the version that had it is kept for rollback.

    Needs ytrainer.proof=passed, ytrainer.gate=passed (unless `force`) and files
    that are still those that were proved. Raises RegistryError otherwise. A
    version that is the champion already stays it.
    """
    client = _client(tracking)
    with _downloaded(uri, tracking) as (version, folder):
        faults = []
        if version.tags.get(PROOF_TAG) != "passed":
            faults.append(
                f"{uri}: its proof is '{version.tags.get(PROOF_TAG, 'missing')}', so it may not be "
                "the model that was trained. Register it again."
            )
        if version.tags.get(GATE_TAG) != "passed" and not force:
            faults.append(
                f"{uri}: its gate verdict is '{version.tags.get(GATE_TAG, 'missing')}'. Evaluate "
                "it, or promote it all the same with --force."
            )
        if faults:
            raise RegistryError(*faults)
        check_files(uri, version.tags, folder)
    name, number = str(version.name), int(version.version)
    with _registry_errors(f"{uri} could not be promoted"):
        previous = _champion(client, name)
        if previous == number:
            return Promotion(name, number, int(version.tags.get(PREVIOUS_TAG, 0)))
        if previous:
            client.set_model_version_tag(name, str(number), PREVIOUS_TAG, str(previous))
            client.set_model_version_tag(name, str(previous), f"{PREVIOUS_TAG}_of", str(number))
        else:  # left over from a promotion before the alias was deleted by hand
            _delete_tag(client, version, PREVIOUS_TAG)
        client.set_registered_model_alias(name, CHAMPION, str(number))  # last: this is the commit
    return Promotion(name, number, previous)


def rollback(name: str, *, tracking: TrackingConfig | None = None) -> Promotion:
    """Give @champion back to the version before; each call goes back one promotion.

    Returns the promotion undone the other way round: version is the champion now,
    previous the one that was rolled back. Raises RegistryError where there is
    nothing to go back to.
    """
    client = _client(tracking)
    with _registry_errors(f"'{name}' could not be rolled back"):
        current = _champion(client, name)
        if not current:
            raise RegistryError(
                f"'{name}' has no @{CHAMPION}, so there is nothing to roll back. "
                "`ytrainer registry list` shows the names and aliases."
            )
        version = client.get_model_version(name, str(current))
        before = version.tags.get(PREVIOUS_TAG)
        if before is None:
            raise RegistryError(
                f"models:/{name}/{current} is the first champion, so there is nothing to go back "
                "to. Promote the version that you want."
            )
        earlier = client.get_model_version(name, before)
        client.set_registered_model_alias(name, CHAMPION, before)
        # Popped, so that promotions to and fro cannot make a circle.
        _delete_tag(client, version, PREVIOUS_TAG)
        _delete_tag(client, earlier, f"{PREVIOUS_TAG}_of")
    return Promotion(name, int(before), current)


def list_models(tracking: TrackingConfig | None = None) -> list[ModelSummary]:
    """All registered models with their versions, newest version first."""
    client = _client(tracking)
    with _registry_errors("the registry could not be read"):
        return [
            ModelSummary(
                str(model.name),
                tuple(
                    _summary(version, model.aliases)
                    for version in _all_pages(
                        client.search_model_versions, filter_string=f"name='{model.name}'"
                    )
                ),
            )
            for model in _all_pages(client.search_registered_models)
        ]


# ---------------------------------------------------------------- what is stored


def _in_form(
    folder: Path, card: ModelCard, config: RegisterConfig, scratch: Path
) -> tuple[Path, str, float]:
    """The folder to register, its form (adapter, full, merged), and what merging changed.

    The last is the largest |logit difference| between the adapter on its base and
    the merged model, 0 where nothing was merged.
    """
    wanted = config.registry.form
    if wanted == "adapter" and card.kind == "full":
        raise RegistryError(
            f"{folder}: is a full model, so registry.form=adapter cannot be had. Set "
            "registry.form=auto."
        )
    if wanted != "full" or card.kind == "full":
        return folder, card.kind, 0.0
    from safetensors.torch import load_file

    from ytrainer_core.training.model import PROBE_NAME, merge

    merged = scratch / "merged"
    merge(folder, merged)  # its probe is of the merged model: that one must reload to 1e-5
    before, after = (load_file(each / PROBE_NAME)["logits"] for each in (folder, merged))
    delta = float((after - before).abs().max())
    allowed = MERGED_TOLERANCE
    if card.dtype != "float32":
        allowed = OTHER_DEVICE_TOLERANCE[card.dtype] * float(before.abs().max())
    if not delta <= allowed:
        raise RegistryError(
            f"{folder}: merging the adapter changes its logits by up to {delta:.3g}, allowed is "
            f"{allowed:.3g}. Register it as an adapter (registry.form=adapter)"
            + ("." if card.dtype == "float32" else ", or train with model.dtype=float32.")
        )
    return merged, "merged", delta


def _stage(trained: Path, logged: Any, staged: Path, model: ModelConfig) -> Path:
    """Lay a model folder out as MLflow's transformers flavor, without loading any weights.

    The model handed to MLflow is a shell on the meta device that 'saves' by
    linking the trained files: no memory for a base of any size, and what is
    stored is byte for byte what was trained.
    """
    import torch
    from mlflow.models import Model
    from mlflow.transformers import save_model
    from transformers import AutoConfig, AutoModelForCausalLM, pipeline

    from ytrainer_core.training.model import CARD_NAME, PROBE_NAME, load_tokenizer, read_card

    card = read_card(trained)
    trust = model.trust_remote_code
    tokenizer = load_tokenizer(trained, trust_remote_code=trust)
    is_adapter = card.kind == "adapter"
    weights = find_base(card.base.name_or_path, card.base.revision) if is_adapter else trained
    architecture = AutoConfig.from_pretrained(weights, trust_remote_code=trust)
    with torch.device("meta"):
        shell: Any = AutoModelForCausalLM.from_config(
            architecture, dtype=getattr(torch, card.dtype), trust_remote_code=trust
        )
        if is_adapter:
            from peft import PeftConfig, PeftModelForCausalLM

            shell = PeftModelForCausalLM(shell, PeftConfig.from_pretrained(trained))
    pattern = "adapter_*" if is_adapter else "[!.]*"
    stored = [file for file in trained.glob(pattern) if file.name not in (CARD_NAME, PROBE_NAME)]

    def save_pretrained(save_directory: str | Path, **_: object) -> None:
        _link(stored, Path(save_directory))

    shell.save_pretrained = save_pretrained
    with _without_pipeline_errors():  # it knows no PeftModel, and says so as an error
        text_generation = pipeline(
            "text-generation", model=shell, tokenizer=tokenizer, device=torch.device("meta")
        )
    save_model(
        text_generation,
        str(staged),
        task="text-generation",
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            run_id=logged.source_run_id,
        ),
        signature=_signature(),
        pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
        prompt_template=_prompt_template(tokenizer, card),
        model_card=_model_card(card),
        base_model_path=str(weights) if is_adapter else None,
    )
    (staged / "LICENSE.txt").unlink(missing_ok=True)  # MLflow's guess, with a link to nowhere
    _link([trained / CARD_NAME, trained / PROBE_NAME], staged)
    return staged


def _link(files: list[Path], folder: Path) -> None:
    """Hard-link files into a folder; copy them where it lies on another file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not file.is_file():
            continue
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def _signature() -> Any:
    """Text in, text out; without the params, pyfunc would ignore max_new_tokens."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = Schema([ColSpec(DataType.string)])
    params = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, _DEFAULT_NEW_TOKENS),
            ParamSpec("do_sample", DataType.boolean, False),
            ParamSpec("temperature", DataType.double, 1.0),
            ParamSpec("top_p", DataType.double, 1.0),
        ]
    )
    return ModelSignature(inputs=text, outputs=text, params=params)


def _prompt_template(tokenizer: Any, card: ModelCard) -> str:
    """The tokenizer's chat template around '{prompt}', as MLflow's pyfunc fills it in."""
    if not tokenizer.chat_template:
        return "{prompt}"
    mark = "YTRAINER-PROMPT"
    messages = [{"role": "user", "content": mark}]
    if system := card.config.get("data", {}).get("system_prompt"):
        messages.insert(0, {"role": "system", "content": system})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(bos)  # the pipeline's tokenizer puts it there
    before, _, after = (part.replace("{", "{{").replace("}", "}}") for part in text.partition(mark))
    return f"{before}{{prompt}}{after}"


def _model_card(card: ModelCard) -> Any:
    """Given, so that MLflow does not look for one on the hub."""
    from huggingface_hub import ModelCard as HubModelCard

    return HubModelCard(
        f"---\nbase_model: {json.dumps(card.base.name_or_path)}\n---\n\n"
        f"Trained by ytrainer {card.ytrainer_version}; ytrainer.json says from what.\n"
    )


def _public_version(package: str) -> str:
    """2.13.0 for 2.13.0+cpu: package indexes know no local versions."""
    return installed_version(package).partition("+")[0]


@contextmanager
def _without_pipeline_errors() -> Iterator[None]:
    logger = logging.getLogger("transformers.pipelines.base")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------- what MLflow is told


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

    if run.run_id and (metrics := _metrics(tags)):
        now = int(time.time() * 1000)
        batch = [
            Metric(name, value, now, 0, model_id=model_id, run_id=run.run_id)
            for name, value in metrics.items()
        ]
        client.log_batch(run.run_id, metrics=batch)


def _metrics(tags: Mapping[str, str]) -> dict[str, float]:
    return {
        name.removeprefix(METRIC_PREFIX): float(value)
        for name, value in tags.items()
        if name.startswith(METRIC_PREFIX)
    }


# ---------------------------------------------------------------- the proof


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


def _load(folder: Path, base: Path | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """(model, tokenizer) of a downloaded version, through MLflow's transformers flavor."""
    import transformers
    from mlflow.models import Model
    from mlflow.transformers import load_model

    flavor = Model.load(str(folder)).flavors["transformers"]
    classes = [flavor[key] for key in ("pipeline_model_type", "tokenizer_type")]
    foreign = [name for name in classes if not hasattr(transformers, name)]
    if foreign and not trust_remote_code:  # MLflow would run it unasked
        raise RegistryError(
            f"{folder}: {', '.join(foreign)} is code that comes with the model. Load it only if "
            "you trust its author: trust_remote_code=True."
        )
    extra = {"base_model_path": str(base)} if base else {}
    parts = load_model(str(folder), return_type="components", **extra)
    return parts["model"].eval(), parts["tokenizer"]


# ---------------------------------------------------------------- small things


def _client(tracking: TrackingConfig | None) -> Any:
    try:
        return connect(tracking or TrackingConfig())
    except ImportError as error:
        raise RegistryError(
            "mlflow is not installed, and the registry is MLflow's. pip install "
            "'ytrainer[pipelines]'."
        ) from error


@contextmanager
def _registry_errors(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{what}: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def _downloaded(uri: str, tracking: TrackingConfig | None) -> Iterator[tuple[Any, Path]]:
    """(model version, folder with its files): in place for a local store, else fetched."""
    tracking = tracking or TrackingConfig()
    client = _client(tracking)
    from mlflow.artifacts import download_artifacts

    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".download.") as scratch:
        with _registry_errors(f"{uri} could not be read"):
            version = _find_version(client, uri)
            place = client.get_model_version_download_uri(version.name, version.version)
            local = Path(place.removeprefix("file://"))
            folder = (
                local
                if local.is_dir()
                else Path(
                    download_artifacts(
                        place,
                        dst_path=scratch,
                        tracking_uri=tracking_uri(tracking),
                        registry_uri=registry_uri(tracking),
                    )
                )
            )
        yield version, folder


def _find_version(client: Any, uri: str) -> Any:
    """The ModelVersion of models:/NAME/3 or models:/NAME@alias."""
    match = re.fullmatch(r"models:/([^:/%\"'@]+)(?:/(\d+)|@([\w-]+))", uri)
    if not match:
        raise RegistryError(
            f"'{uri}' names no registered version. Write models:/NAME/3 or models:/NAME@champion; "
            "`ytrainer registry list` shows what there is."
        )
    name, number, alias = match.groups()
    if alias:
        return client.get_model_version_by_alias(name, alias)
    return client.get_model_version(name, number)


def _champion(client: Any, name: str) -> int:
    """Version number of @champion, 0 where there is none."""
    return int(client.get_registered_model(name).aliases.get(CHAMPION, 0))


def _delete_tag(client: Any, version: Any, tag: str) -> None:
    if tag in version.tags:
        client.delete_model_version_tag(version.name, version.version, tag)


def _summary(version: Any, aliases: Mapping[str, str]) -> VersionSummary:
    number = int(version.version)  # MLflow gives an int or a str, as the store has it
    return VersionSummary(
        version=number,
        uri=f"models:/{version.name}/{number}",
        aliases=tuple(sorted(alias for alias, held in aliases.items() if int(held) == number)),
        proof=version.tags.get(PROOF_TAG, ""),
        gate=version.tags.get(GATE_TAG, ""),
        form=version.tags.get(FORM_TAG, ""),
        run_id=version.run_id or "",
        created=version.creation_timestamp / 1000,
        metrics=_metrics(version.tags),
    )


def _all_pages(search: Callable[..., Any], **arguments: str) -> Iterator[Any]:
    page = search(**arguments)
    yield from page
    while page.token:
        page = search(**arguments, page_token=page.token)
        yield from page
