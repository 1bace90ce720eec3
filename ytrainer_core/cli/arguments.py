"""How every command takes its config: CONFIG.yaml, then key=value overrides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ytrainer_core.config import STAGE_CONFIGS, StageConfig, narrow
from ytrainer_core.config.base import parse_overrides, read_tree
from ytrainer_core.errors import ConfigError

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [key=value …]", help="Config file, then overrides."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=PATH", help="Output of an earlier stage."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def split_words(words: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """(config file or None, overrides). The file is the first word without '='."""
    words = list(words or ())
    path = Path(words.pop(0)) if words and "=" not in words[0] else None
    return path, words


def read_words(words: Sequence[str] | None) -> tuple[dict[str, Any], Path | None]:
    """(config tree, its file or None) of a command's words."""
    path, overrides = split_words(words)
    return read_tree(path, overrides), path


def stage_config(stage: str, words: Sequence[str] | None) -> StageConfig:
    """The config of a stage command; warns of overrides that this stage does not read."""
    if stage not in STAGE_CONFIGS:
        raise ConfigError(f"'{stage}' is no stage. Stages: {', '.join(STAGE_CONFIGS)}.")
    path, overrides = split_words(words)
    model = STAGE_CONFIGS[stage]
    config = narrow(model, read_tree(path, overrides), path)
    for key in parse_overrides(overrides):
        if key.split(".")[0] not in model.model_fields:
            print(f"warning: {key} has no effect: {stage} does not read it", file=sys.stderr)
    return config


def named_inputs(inputs: Sequence[str] | None) -> dict[str, str]:
    """['model=out/model'] -> {'model': 'out/model'}."""
    named = {}
    for given in inputs or ():
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--input {given}: expected NAME=PATH, e.g. --input model=out/model")
        named[name] = value
    return named
