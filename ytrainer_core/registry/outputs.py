"""What a training or a pipeline wrote, as something that can be registered later."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import home
from ytrainer_core.training.model import CARD_NAME, read_card

_PIPELINES = "pipelines"
_STAGES = "stages"
_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Output:
    """A trained model, the verdict on it (None without one) and the sections it was made with."""

    model: Path
    evaluation: Path | None = None
    sections: dict[str, Any] = field(default_factory=dict)


def find_output(folder: Path, evaluation: Path | None = None) -> Output:
    """The model in a pipeline's folder, in a training's output folder, or in the folder itself.

    evaluation: the verdict, or the evaluate stage's output folder; a pipeline's folder has its own.
    Raises ConfigError where there is no model, or no such verdict.
    """
    model, found = _model_and_evaluation(folder.expanduser().absolute())
    if evaluation is not None:
        found = evaluation / "evaluation" if evaluation.is_dir() else evaluation
        if not found.is_file():
            raise ConfigError(
                f"--evaluation {evaluation}: holds no evaluation. Give the 'evaluation' file that "
                "the evaluate stage wrote, or its output folder."
            )
    card = read_card(model)
    return Output(model, found, {**card.config, **_config_of(folder)})


def how_to_repeat(model: Path) -> str:
    """The command that registers a trained model later; one sentence."""
    pipelines = home() / _PIPELINES
    folder = model.absolute()
    if folder.is_relative_to(pipelines):
        folder = pipelines / folder.relative_to(pipelines).parts[0]
    return (
        f"The trained model is whole; `ytrainer registry register {folder}` registers it when the "
        "registry answers again."
    )


def _model_and_evaluation(folder: Path) -> tuple[Path, Path | None]:
    if (folder / _STAGES).is_dir():
        made = _made_by_stages(folder / _STAGES)
        if "model" not in made:
            raise ConfigError(
                f"{folder}: this pipeline made no model (none of the stages in {_STAGES}/ tells of "
                "one). Run it again, it goes on from its last checkpoint."
            )
        evaluation = made.get("evaluation")
        return _there(made["model"]), _there(evaluation) if evaluation else None
    for candidate in (folder, folder / "model"):
        if (candidate / CARD_NAME).is_file():
            return candidate, None
    raise ConfigError(
        f"{folder}: holds no trained model. Give the output folder of a training, its 'model' "
        f"folder, or a folder below {home() / _PIPELINES}."
    )


def _made_by_stages(folder: Path) -> dict[str, Path]:
    """Output name -> path, of all stages of a pipeline, the last one that made it."""
    told = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    made: dict[str, Path] = {}
    for file in told:
        if file.name.endswith(".config.json"):
            continue
        try:
            outputs = json.loads(file.read_text(encoding="utf-8"))["outputs"]
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"{file}: is damaged. Give the folder of the trained model itself, and its "
                "verdict as --evaluation."
            ) from error
        made |= {name: Path(path) for name, path in outputs.items()}
    return made


def _there(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(
            f"{path}: is not there any more. Give the folder where the trained model lies now, and "
            "its verdict as --evaluation."
        )
    return path


def _config_of(folder: Path) -> dict[str, Any]:
    """The resolved config beside the outputs; empty in a model's own folder, which has a card."""
    path = folder.expanduser() / _CONFIG
    if (folder / CARD_NAME).is_file() or not path.is_file():
        return {}
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree
