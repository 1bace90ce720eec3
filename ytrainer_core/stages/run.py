"""One way to run any stage: from the command line, in a Kubeflow step, in a test.

Stage modules are imported when they run: a laptop's `ytrainer validate` does not
pay for what training needs.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import math
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ytrainer_core.config import STAGE_CONFIGS, StageConfig, dump_json, narrow
from ytrainer_core.config.headline import join_headline
from ytrainer_core.errors import (
    ConfigError,
    DiskFull,
    RegistryError,
    StageFailed,
    YTrainerError,
)
from ytrainer_core.files import home, sha256_json, write_json, write_text
from ytrainer_core.processes import POD_NAME_VARIABLE, end_with
from ytrainer_core.stages.base import Stage, StageContext, StageResult

if TYPE_CHECKING:
    from ytrainer_core.tracking import Run

ERROR_FILE_VARIABLE = "YTRAINER_ERROR_FILE"
"""Environment variable: where a step of a local pipeline writes why it failed."""

SUMMARY_FOLDER_VARIABLE = "YTRAINER_SUMMARY_FOLDER"
"""Environment variable: where a step of a local pipeline writes its metrics and summary."""

PIPELINE_PID_VARIABLE = "YTRAINER_PIPELINE_PID"
"""Environment variable: process of the local pipeline; its steps do not outlive it."""

_LASTING_VARIABLES = ("MLFLOW_TRACKING_URI", "YTRAINER_HOME")
"""Where one of these is set, a step's records lie outside of its pod."""

_FULL_DISK_WORDS = ("No space left on device", "PytorchStreamWriter failed writing file")

_MODULES = {
    "validate": "validate:STAGE",
    "score": "score:STAGE",
    "order": "order:STAGE",
    "pretrain": "pretrain:STAGE",
    "cpt": "train:CPT",
    "sft": "train:SFT",
    "kto": "kto:STAGE",
    "evaluate": "evaluate:STAGE",
    "register": "register:REGISTER",
    "promote": "register:PROMOTE",
}


C = TypeVar("C", bound=StageConfig)


_MODEL_NAMES = (("model", "name_or_path"), ("model", "init_from"), ("score", "compare_with"))
"""(section, field) of every knob that may name a registered model."""


class _Stages(Mapping[str, Stage]):
    """Stages by name, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> Stage:
        module, attribute = _MODULES[name].split(":")
        loaded = importlib.import_module(f"ytrainer_core.stages.{module}")
        stage: Stage = getattr(loaded, attribute)
        return stage

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


STAGES: Mapping[str, Stage] = _Stages()


def run_stage(
    name: str,
    config: StageConfig,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, Path],
    resume_run_id: str = "",
) -> StageResult:
    """Run one stage under tracking.

    inputs: name -> path or URI of what earlier stages made. outputs: name -> path for
    every declared output. Raises YTrainerError with what, where and the remedy.
    """
    quiet_libraries()
    from ytrainer_core.tracking import PARENT_RUN_VARIABLE, open_run

    stage = STAGES[name]
    config = resolved(config)
    given = {key: value for key, value in (inputs or {}).items() if value}
    _check_names(stage, given)
    # a restarted pipeline gives its steps other paths; which work they are, its own run tells
    identity = {} if os.environ.get(PARENT_RUN_VARIABLE) else given
    key = sha256_json([name, config.model_dump(mode="json", exclude={"output_dir"}), identity])[:16]
    started = time.monotonic()
    with (
        _register_later(given if name == "register" else {}),
        open_run(name, config, key=key, resume_run_id=resume_run_id) as run,
    ):
        with name_full_disk(*(path.parent for path in outputs.values())):
            result = stage.function(config, StageContext(given, outputs, run))
        seconds = time.monotonic() - started
        metrics = {**result.metrics, "stage_seconds": seconds, "peak_rss_mib": peak_rss_mib()}
        run.log(metrics, 0)
        for kind_name, kind in stage.outputs.items():
            if kind == "html":
                _record_page(run, outputs[kind_name], f"{name}.html")
    return StageResult(metrics, result.values, result.summary)


@contextmanager
def _register_later(inputs: Mapping[str, str]) -> Iterator[None]:
    """Where MLflow cannot be reached to register `model` of the inputs, say how it can be later."""
    try:
        yield
    except YTrainerError as error:
        if type(error) is not YTrainerError or "model" not in inputs:  # what tracking raises
            raise
        from ytrainer_core.registry import how_to_repeat

        raise RegistryError(*error.faults, how_to_repeat(Path(inputs["model"]))) from error


def resolved(config: C) -> C:
    """A config whose names are paths: what the demo makes, and registered models."""
    from ytrainer_core.demo.resources import resolve

    config = resolve(config)
    for section, field in _MODEL_NAMES:
        part = getattr(config, section, None)
        if part is None or not getattr(part, field).startswith("models:/"):
            continue
        from ytrainer_core.registry import fetch_registered

        folder = fetch_registered(getattr(part, field), tracking=config.tracking)
        config = config.model_copy(update={section: part.model_copy(update={field: str(folder)})})
    return config


def run_component(
    name: str,
    config: Mapping[str, Any] | str,
    *,
    headline: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
) -> StageResult:
    """Body of a Kubeflow component: join the parameters, run the stage, end with its exit code.

    A failure leaves one paragraph in the step's log and exits as the command line would.
    """
    watch_pipeline()
    try:
        tree = json.loads(config) if isinstance(config, str) else dict(config)
        model = STAGE_CONFIGS[name]
        stage_config = narrow(model, join_headline(model, tree, headline or {}))
        _require_lasting_store(stage_config)
        paths = {key: Path(path) for key, path in (outputs or {}).items()}
        result = run_stage(name, stage_config, inputs=inputs, outputs=paths)
    except YTrainerError as error:
        write_error(error)
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        last_line = f"{type(error).__name__}: {error}"
        write_error(StageFailed(f"{name} failed unexpectedly with {last_line}"))
        raise
    folder = os.environ.get(SUMMARY_FOLDER_VARIABLE)
    if folder:
        write_result(Path(folder) / f"{name}.json", result, outputs or {}, stage_config)
    finite = {key: value for key, value in result.metrics.items() if math.isfinite(value)}
    return replace(result, metrics=finite)  # kfp's metadata can hold no other number


def _require_lasting_store(config: StageConfig) -> None:
    """Refuse to record runs and models in a pod's own file, which is lost with the pod."""
    named = config.tracking.uri or any(os.environ.get(name) for name in _LASTING_VARIABLES)
    if os.environ.get(POD_NAME_VARIABLE) and config.tracking.enabled and not named:
        raise ConfigError(
            "tracking.uri: is not set, so runs and models would be recorded in a file of this pod "
            "and lost with it. Put MLFLOW_TRACKING_URI into the secret cluster.mlflow_secret, or "
            "set tracking.uri."
        )


def _record_page(run: Run, page: Path, name: str) -> None:
    """Store a report under a name that MLflow shows as HTML; kfp's paths have no suffix."""
    with tempfile.TemporaryDirectory() as scratch:
        run.artifact(shutil.copyfile(page, Path(scratch) / name), "reports")


@contextmanager
def name_full_disk(*places: Path) -> Iterator[None]:
    """Turn 'no space left' into an error that says where and what to do.

    places: folders that are written to besides home(); the fullest is named where the
    failed call does not tell.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, YTrainerError) or not _is_full_disk(error):
            raise
        written = [place for place in (*places, home()) if place.exists()]
        fullest = min(written, key=lambda place: shutil.disk_usage(place).free, default=home())
        raise DiskFull(
            f"{getattr(error, 'filename', None) or fullest}: no space is left on the disk. Free "
            "some and start again; nothing half-written was left under its final name, and a "
            "training continues from its last complete checkpoint."
        ) from error


def _is_full_disk(error: Exception) -> bool:
    """Whether no space was left; safetensors, torch and shutil say so in words of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in _FULL_DISK_WORDS)


def write_error(error: YTrainerError) -> None:
    """Leave the error for the pipeline's process, which raises it again."""
    path = os.environ.get(ERROR_FILE_VARIABLE)
    if path:
        write_json(Path(path), {"kind": type(error).__name__, "faults": list(error.faults)})


def write_result(
    path: Path, result: StageResult, outputs: Mapping[str, str | Path], config: StageConfig
) -> None:
    """Store what a stage told, and its resolved config beside it."""
    write_json(
        path,
        {
            "metrics": result.metrics,
            "values": result.values,
            "summary": result.summary,
            "outputs": {key: str(value) for key, value in outputs.items()},
        },
    )
    write_text(path.with_name(f"{path.stem}.config.json"), dump_json(config))


def watch_pipeline() -> None:
    """End this process soon after the local pipeline that started it is gone."""
    pid = int(os.environ.get(PIPELINE_PID_VARIABLE, "0"))
    if pid:
        end_with(pid, YTrainerError.exit_code)


def peak_rss_mib() -> float:
    """Peak resident memory of this process so far, in MiB (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def quiet_libraries() -> None:
    """Keep progress bars and notices of libraries out of our output; errors still show.

    By environment where a library is not imported yet: importing one here would cost
    every light stage some seconds.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_CACHE", str(home() / "cache" / "datasets"))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("DeepSpeed").addFilter(_errors_only)  # it writes to stdout when imported
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _check_names(stage: Stage, inputs: Mapping[str, str]) -> None:
    unknown = sorted(set(inputs) - set(stage.inputs))
    if unknown:
        takes = ", ".join(stage.inputs) or "none"
        raise ConfigError(
            f"{stage.name} has no input {', '.join(map(repr, unknown))}; it takes: {takes}."
        )
    for name in inputs:
        if name != "version" and not Path(inputs[name]).exists():
            raise ConfigError(f"input {name}: {inputs[name]} does not exist.")
