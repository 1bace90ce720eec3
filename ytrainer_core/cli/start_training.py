"""start-training: the published Y-Trainer's flags, told as a config of ours, printed and run.

Flags are spelled as published, misspellings included, so that a script keeps working with
`ytrainer start-training` in place of its program.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
import yaml

from ytrainer_core.config import STAGE_CONFIGS, StageConfig, narrow
from ytrainer_core.config.base import set_dotted
from ytrainer_core.errors import ConfigError


@dataclass(frozen=True)
class Flag:
    """A published flag.

    key: the knob it sets, or "" where it decides about several, or has no counterpart.
    on: whether its values are 'true' and 'false'. needs: another flag without which it has no
    effect, or the one training type that reads it.
    """

    name: str
    key: str = ""
    on: bool = False
    needs: str = ""
    says: str = ""

    @property
    def help(self) -> str:
        """One sentence for --help."""
        sets = f"Sets {self.key}." if self.key else ""
        needs = f"With {self.needs}{_true(self.needs)}." if self.needs else ""
        return " ".join(part for part in (sets, self.says, needs) if part)


_SFT, _CPT = "--training_type sft", "--training_type cpt"
_LORA, _DEEPSPEED, _DISTILLATION = "--use_lora", "--use_deepspeed", "--Distillition"

FLAGS: dict[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("--model_path_to_load", "model.name_or_path", says="Must be given."),
        Flag("--training_type", says="cpt or sft. Must be given."),
        Flag("--data_path", "data.train", says="Must be given."),
        Flag("--output_dir", "output_dir", says="Must be given."),
        Flag("--epoch", "train.num_train_epochs", says="3 by default."),
        Flag("--lr", "optim.learning_rate", says="5e-6 by default."),
        Flag("--batch_size", "train.per_device_batch_size", says="1 by default."),
        Flag("--gradient_accumulation_steps", "train.gradient_accumulation_steps"),
        Flag("--token_batch", "train.token_group_size", needs=_SFT, says="10 by default."),
        Flag("--use_NLIRG", on=True, says="Sets objective.name: nlirg, or cross_entropy."),
        Flag("--use_lora", on=True, says="Train adapters; every weight by default."),
        Flag("--lora_path", "model.init_from"),
        Flag("--lora_rank", "lora.rank", needs=_LORA, says="16 by default."),
        Flag("--lora_alpha", "lora.alpha", needs=_LORA, says="32 by default."),
        Flag("--lora_dropout", "lora.dropout", needs=_LORA, says="0.2 by default."),
        Flag("--lora_target_modules", "lora.target_modules", needs=_LORA),
        Flag("--checkpoint_epoch", "train.save_epochs", says="Published counts from 0, we from 1."),
        Flag("--pack_length", "train.pack_length", needs=_CPT),
        Flag("--max_seq_len", "data.max_length"),
        Flag("--system_prompt", "data.system_prompt"),
        Flag("--data_type", "model.dtype"),
        Flag("--enable_gradit_checkpoing", "train.gradient_checkpointing", on=True),
        Flag("--use_deepspeed", on=True, says="Sets launch.engine to deepspeed."),
        Flag("--deepspeed_cfg_path", "launch.deepspeed_config", needs=_DEEPSPEED),
        Flag("--use_tensorboard", "train.tensorboard", on=True),
        Flag("--tensorboard_path", says="No counterpart: the files lie below YTRAINER_HOME."),
        Flag("--seed", "seed"),
        Flag("--Distillition", on=True, says="Learn from the teacher as well."),
        Flag("--teacher_model_path", "objective.distillation.teacher", needs=_DISTILLATION),
        Flag(
            "--coefficient_of_origin_loss",
            "objective.distillation.token_loss_coefficient",
            needs=_DISTILLATION,
        ),
        Flag("--use_process_bar", on=True, says="No counterpart: a terminal shows bars."),
    )
}
"""Every published flag by its name."""

REQUIRED = ("--model_path_to_load", "--training_type", "--data_path", "--output_dir")

# What the published program does where a flag is not given.
_DEFAULTS: dict[str, object] = {
    "data.validation_fraction": 0.0,  # it trains every row
    "train.num_train_epochs": 3.0,
    "train.per_device_batch_size": 1,
    "optim.learning_rate": 5e-6,
}
_SFT_DEFAULTS: dict[str, object] = {"train.batching": "token_groups", "train.token_group_size": 10}
_LORA_DEFAULTS: dict[str, object] = {"lora.rank": 16, "lora.alpha": 32, "lora.dropout": 0.2}

_STAGES = ("sft", "cpt")


@dataclass(frozen=True)
class Mapped:
    """What the flags mean here. notes: what of them has no effect, and why."""

    stage: str
    config: StageConfig
    notes: tuple[str, ...]


def add_command(app: typer.Typer) -> None:
    """Add start-training, one option a flag."""
    app.command(
        "start-training",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_with_options(start_training))


def start_training(context: typer.Context, **given: str | None) -> None:
    """Train as the published trainer's flags say; print the config they make."""
    from ytrainer_core.cli.stages import run_to_folder

    flags = {f"--{name}": value for name, value in given.items() if value is not None}
    mapped = config_of_flags(flags, context.args)
    for note in mapped.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(as_yaml(mapped), end="", flush=True)
    run_to_folder(mapped.stage, mapped.config, {}, as_json=False)


def _with_options(function: Any) -> Any:
    """The function with one option a flag in its signature, which typer reads."""
    options = [
        inspect.Parameter(
            name.removeprefix("--"),
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(
                None, name, help=flag.help, metavar="true|false" if flag.on else "VALUE"
            ),
            annotation=str | None,
        )
        for name, flag in FLAGS.items()
    ]
    first = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    function.__signature__ = inspect.Signature([first, *options])
    function.__annotations__ = {one.name: one.annotation for one in (first, *options)}
    return function


def config_of_flags(given: Mapping[str, str], unknown: Sequence[str] = ()) -> Mapped:
    """The stage and config that published flags mean.

    given: flag -> value as typed; an empty value is as good as none. unknown: words that are no
    flag of ours. Raises ConfigError with every fault at once.
    """
    given = {name: value.strip() for name, value in given.items() if value.strip()}
    faults = [_unknown(word) for word in unknown if word.startswith("-")]
    if unknown and not faults:
        faults.append(f"{' '.join(unknown)}: belongs to no flag. Write --flag VALUE.")
    missing = [name for name in REQUIRED if name not in given]
    if missing:
        faults.append(f"{', '.join(missing)} must be set.")
    kind = given.get("--training_type", "sft")
    if kind == "rl":
        faults.append(
            "--training_type rl: reinforcement learning is not part of this version. Write the "
            "answers you want as rows and train them with --training_type sft."
        )
    elif kind not in _STAGES:
        faults.append(f"--training_type {kind}: no such type. Set it to sft or cpt.")
    switches, wrong = _switches(given)
    faults += wrong

    tree: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in _defaults(kind, switches).items():
        set_dotted(tree, key, value)
    for name, value in given.items():
        flag = FLAGS[name]
        if flag.needs and not _is_met(flag.needs, kind, switches):
            notes.append(f"{name} has no effect without {flag.needs}{_true(flag.needs)}")
        elif name == "--checkpoint_epoch":
            set_dotted(tree, flag.key, _from_one(value, faults))
        elif flag.key:
            set_dotted(tree, flag.key, switches.get(name, False) if flag.on else value)
    if switches.get(_DISTILLATION) and "--teacher_model_path" not in given:
        faults.append("--Distillition true: needs a teacher. Set --teacher_model_path.")
    notes += _without_counterpart(given, switches)

    stage = kind if kind in _STAGES else "sft"
    try:
        config = narrow(STAGE_CONFIGS[stage], tree)
    except ConfigError as error:
        raise ConfigError(*faults, *(_by_flag(fault) for fault in error.faults)) from None
    if faults:
        raise ConfigError(*faults)
    return Mapped(stage, config, tuple(notes))


def as_yaml(mapped: Mapped) -> str:
    """The config as `ytrainer sft CONFIG.yaml` reads it: what differs from the defaults."""
    plain = type(mapped.config)().model_dump(mode="json")
    tree = _difference(mapped.config.model_dump(mode="json"), plain)
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return f"# ytrainer {mapped.stage} CONFIG.yaml\n{text}"


def _difference(tree: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            inner = _difference(value, plain[key])
            if inner:
                found[key] = inner
        elif value != plain[key]:
            found[key] = value
    return found


def _defaults(kind: str, switches: Mapping[str, bool]) -> dict[str, object]:
    """What the published program does by default, and what its switches mean."""
    chosen = dict(_DEFAULTS)
    if kind == "sft":
        chosen |= _SFT_DEFAULTS
    chosen |= _LORA_DEFAULTS if switches.get(_LORA) else {"lora.rank": 0}
    if not switches.get("--use_NLIRG", True):
        chosen["objective.name"] = "cross_entropy"
    if switches.get(_DEEPSPEED):
        chosen["launch.engine"] = "deepspeed"
    return chosen


def _switches(given: Mapping[str, str]) -> tuple[dict[str, bool], list[str]]:
    """(flag -> on or off, faults) of the flags whose values are 'true' and 'false'."""
    switches, faults = {}, []
    for name, value in given.items():
        if not FLAGS[name].on:
            continue
        if value.lower() not in ("true", "false"):
            faults.append(f"{name} {value}: is neither true nor false. Set it to one of them.")
        switches[name] = value.lower() == "true"
    return switches, faults


def _is_met(needs: str, kind: str, switches: Mapping[str, bool]) -> bool:
    return needs.endswith(f" {kind}") if " " in needs else switches.get(needs, False)


def _true(needs: str) -> str:
    return "" if " " in needs else " true"


def _from_one(value: str, faults: list[str]) -> list[int]:
    """'0,1' -> [1, 2]: epochs counted from 0 become epochs counted from 1."""
    try:
        return [int(part) + 1 for part in value.split(",") if part.strip()]
    except ValueError:
        faults.append(
            f"--checkpoint_epoch {value}: not epochs separated by commas. Write for example 0,1"
        )
        return []


def _without_counterpart(given: Mapping[str, str], switches: Mapping[str, bool]) -> list[str]:
    from ytrainer_core.files import home

    notes = []
    if "--tensorboard_path" in given:
        notes.append(f"--tensorboard_path has no effect: event files lie in {home()}/tensorboard")
    if "--use_process_bar" in given:
        notes.append(
            "--use_process_bar has no effect: a bar is shown where stderr is a terminal, else a "
            "line a minute"
        )
    if switches.get(_DEEPSPEED):
        notes.append(
            "--use_deepspeed trains in one process; for more GPUs set launch.processes in the "
            "config below"
        )
    return notes


def _unknown(word: str) -> str:
    """The fault of a flag that is none of ours, with the nearest one by its name or its knob's."""
    name = word.partition("=")[0]
    spelled = name.lstrip("-").replace("-", "_").lower()
    near_by = {flag.key.rpartition(".")[2]: flag.name for flag in FLAGS.values() if flag.key}
    near_by |= {known.removeprefix("--").lower(): known for known in FLAGS}
    near = difflib.get_close_matches(spelled, near_by, n=1, cutoff=0.6)
    remedy = f"Did you mean '{near_by[near[0]]}'?" if near else "Look at start-training --help."
    return f"{name}: unknown flag. {remedy}"


def _by_flag(fault: str) -> str:
    """A fault of a config, told by the flag that set the knob."""
    key, colon, rest = fault.partition(": ")
    name = next((flag.name for flag in FLAGS.values() if flag.key and flag.key == key), "")
    return f"{name} ({key}){colon}{rest}" if name else fault
