"""start-training: every published flag means one config, which is printed and trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ytrainer_core.cli.start_training import FLAGS, REQUIRED, Mapped, as_yaml, config_of_flags
from ytrainer_core.config import STAGE_CONFIGS, CptConfig, SftConfig, narrow
from ytrainer_core.errors import ConfigError

Cli = Callable[..., Any]
Rows = Callable[..., Path]

NEEDED = {
    "--model_path_to_load": "base",
    "--training_type": "sft",
    "--data_path": "a.json,b.json",
    "--output_dir": "out",
}
LORA = {"--use_lora": "true"}
TEACHER = {"--Distillition": "true", "--teacher_model_path": "large"}


def mapped(**flags: str) -> Mapped:
    return config_of_flags(NEEDED | {f"--{name}": value for name, value in flags.items()})


def value_of(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def test_the_published_flags_are_all_there() -> None:
    published = """model_path_to_load training_type data_path output_dir epoch lr batch_size
    gradient_accumulation_steps token_batch use_NLIRG use_lora lora_path lora_rank lora_alpha
    lora_dropout lora_target_modules checkpoint_epoch pack_length max_seq_len system_prompt
    data_type enable_gradit_checkpoing use_deepspeed deepspeed_cfg_path use_tensorboard
    tensorboard_path seed Distillition teacher_model_path coefficient_of_origin_loss
    use_process_bar"""
    assert {f"--{name}" for name in published.split()} == set(FLAGS)


MEANS: list[tuple[dict[str, str], str, object]] = [
    ({"--model_path_to_load": "m"}, "model.name_or_path", "m"),
    ({"--data_path": "a.json, b.json"}, "data.train", ("a.json", "b.json")),
    ({"--output_dir": "o"}, "output_dir", "o"),
    ({"--epoch": "5"}, "train.num_train_epochs", 5),
    ({"--lr": "1e-4"}, "optim.learning_rate", 1e-4),
    ({"--batch_size": "4"}, "train.per_device_batch_size", 4),
    ({"--gradient_accumulation_steps": "8"}, "train.gradient_accumulation_steps", 8),
    ({"--token_batch": "7"}, "train.token_group_size", 7),
    ({"--use_NLIRG": "true"}, "objective.name", "nlirg"),
    ({"--use_NLIRG": "false"}, "objective.name", "cross_entropy"),
    ({"--use_lora": "true"}, "lora.rank", 16),
    ({"--use_lora": "True"}, "lora.dropout", 0.2),
    ({"--use_lora": "false"}, "lora.rank", 0),
    ({"--lora_path": "earlier"}, "model.init_from", "earlier"),
    ({**LORA, "--lora_rank": "4"}, "lora.rank", 4),
    ({**LORA, "--lora_alpha": "8"}, "lora.alpha", 8),
    ({**LORA, "--lora_dropout": "0.1"}, "lora.dropout", 0.1),
    ({**LORA, "--lora_target_modules": "q_proj,k_proj"}, "lora.target_modules",
     ("q_proj", "k_proj")),
    ({"--checkpoint_epoch": "0,1"}, "train.save_epochs", (1, 2)),
    ({"--training_type": "cpt", "--pack_length": "64"}, "train.pack_length", 64),
    ({"--max_seq_len": "512"}, "data.max_length", 512),
    ({"--system_prompt": "Be brief."}, "data.system_prompt", "Be brief."),
    ({"--data_type": "bfloat16"}, "model.dtype", "bfloat16"),
    ({"--enable_gradit_checkpoing": "true"}, "train.gradient_checkpointing", True),
    ({"--enable_gradit_checkpoing": "false"}, "train.gradient_checkpointing", False),
    ({"--use_deepspeed": "true"}, "launch.engine", "deepspeed"),
    ({"--use_deepspeed": "false"}, "launch.engine", "ddp"),
    ({"--use_deepspeed": "true", "--deepspeed_cfg_path": "d.json"}, "launch.deepspeed_config",
     "d.json"),
    ({"--use_tensorboard": "true"}, "train.tensorboard", True),
    ({"--seed": "7"}, "seed", 7),
    (TEACHER, "objective.distillation.teacher", "large"),
    ({**TEACHER, "--coefficient_of_origin_loss": "0.7"},
     "objective.distillation.token_loss_coefficient", 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "key", "value"), MEANS, ids=lambda part: str(part)[:60])
def test_a_flag_sets_its_knob_and_the_yaml_says_the_same(
    flags: dict[str, str], key: str, value: object
) -> None:
    made = config_of_flags(NEEDED | flags)
    assert value_of(made.config, key) == value
    text = as_yaml(made)
    assert text.startswith(f"# ytrainer {made.stage} ")
    assert narrow(STAGE_CONFIGS[made.stage], yaml.safe_load(text)) == made.config


def test_every_flag_is_covered_here_or_is_said_to_have_no_counterpart() -> None:
    covered = {name for flags, *_ in MEANS for name in flags}
    assert set(FLAGS) - covered == {"--tensorboard_path", "--use_process_bar"}


def test_without_further_flags_the_published_defaults_hold() -> None:
    config = mapped().config
    assert isinstance(config, SftConfig)
    assert (config.optim.learning_rate, config.train.num_train_epochs) == (5e-6, 3)
    assert (config.train.batching, config.train.token_group_size) == ("token_groups", 10)
    assert (config.train.per_device_batch_size, config.lora.rank) == (1, 0)
    assert (config.objective.name, config.data.validation_fraction) == ("nlirg", 0)
    lora = mapped(use_lora="true").config
    assert isinstance(lora, SftConfig)
    assert (lora.lora.rank, lora.lora.alpha, lora.lora.dropout) == (16, 32, 0.2)


def test_continued_pretraining_packs_its_rows() -> None:
    made = mapped(training_type="cpt", pack_length="128")
    assert made.stage == "cpt" and isinstance(made.config, CptConfig)
    assert (made.config.train.batching, made.config.train.pack_length) == ("packed", 128)


def test_only_what_differs_from_the_defaults_is_printed() -> None:
    assert yaml.safe_load(as_yaml(mapped(use_lora="true"))) == {
        "output_dir": "out",
        "model": {"name_or_path": "base"},
        "data": {"train": ["a.json", "b.json"], "validation_fraction": 0.0},
        "optim": {"learning_rate": 5e-6},
        "lora": {"dropout": 0.2},
        "train": {"batching": "token_groups"},
    }


def test_an_empty_value_is_as_good_as_none() -> None:
    assert mapped(lora_path="", teacher_model_path=" ") == mapped()


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ({"lora_rank": "8"}, "--lora_rank has no effect without --use_lora true"),
        ({"lora_rank": "8", "use_lora": "false"}, "--lora_rank has no effect"),
        ({"pack_length": "64"}, "--pack_length has no effect without --training_type cpt"),
        ({"training_type": "cpt", "token_batch": "5"}, "--token_batch has no effect"),
        ({"deepspeed_cfg_path": "d.json"}, "--deepspeed_cfg_path has no effect"),
        ({"teacher_model_path": "large"}, "--teacher_model_path has no effect"),
        ({"coefficient_of_origin_loss": "0.3"}, "--coefficient_of_origin_loss has no effect"),
        ({"use_process_bar": "true"}, "--use_process_bar has no effect"),
        ({"use_deepspeed": "true"}, "launch.processes"),
    ],
)
def test_what_has_no_effect_is_named(flags: dict[str, str], note: str) -> None:
    (told,) = mapped(**flags).notes
    assert note in told


def test_where_event_files_lie_instead_is_said() -> None:
    (told,) = mapped(tensorboard_path="logs").notes
    assert told.startswith("--tensorboard_path") and os.environ["YTRAINER_HOME"] in told


# --- what is refused -----------------------------------------------------------------------------


def faults(flags: dict[str, str], *unknown: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of_flags(flags, unknown)
    return list(caught.value.faults)


def test_everything_that_is_missing_is_named_at_once() -> None:
    assert faults({}) == [f"{', '.join(REQUIRED)} must be set."]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"--training_type": "rl"}, "reinforcement learning is not part of this version"),
        ({"--training_type": "dpo"}, "Set it to sft or cpt"),
        ({"--use_lora": "yes"}, "--use_lora yes: is neither true nor false"),
        ({"--lr": "fast"}, "--lr (optim.learning_rate): "),
        ({"--data_type": "int8"}, "--data_type (model.dtype): "),
        ({"--checkpoint_epoch": "last"}, "Write for example 0,1"),
        ({"--Distillition": "true"}, "Set --teacher_model_path"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(flags: dict[str, str], fault: str) -> None:
    (told,) = faults(NEEDED | flags)
    assert fault in told


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lora_rnk=8", "--lora_rank"),
        ("--enable_gradient_checkpointing", "--enable_gradit_checkpoing"),
        ("--learning-rate", "--lr"),
        ("--wandb", "Look at start-training --help"),
        ("--use-lora", "--use_lora"),
        ("-lr", "--lr"),
        ("--Distillation", "--Distillition"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_known(word: str, meant: str) -> None:
    (told,) = faults(NEEDED, word, "value")
    assert "unknown flag" in told and meant in told


def test_all_faults_come_in_one_error(cli: Cli) -> None:
    outcome = cli("start-training", "--training_type=rl", "--lora_rnk", 8, "--lr", "fast")
    assert outcome.code == 2 and outcome.out == ""
    told = [line.removeprefix("error: ") for line in outcome.err.strip().splitlines()]
    assert [line.split(" ")[0] for line in told] == [
        "--lora_rnk:", "--model_path_to_load,", "--training_type", "--lr",
    ]  # fmt: skip


def test_a_word_without_a_flag_is_refused(cli: Cli) -> None:
    words = [f"{name}={value}" for name, value in NEEDED.items()]
    outcome = cli("start-training", *words, "stray")
    assert outcome.code == 2 and "stray: belongs to no flag" in outcome.said


def test_the_flags_are_listed_by_help(cli: Cli) -> None:
    told = cli("start-training", "--help").out
    assert all(name in told for name in FLAGS)


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["--flag value", "--flag=value"])
def test_sft_trains_what_was_asked_for(
    spelling: str, cli: Cli, rows: Rows, base_folder: Path, tmp_path: Path
) -> None:
    more = [{"instruction": f"Say {i}", "output": f"{i}!"} for i in range(8)]
    flags = {
        "--model_path_to_load": base_folder,
        "--training_type": "sft",
        "--data_path": f"{rows(name='a.json')},{rows(more, 'b.jsonl')}",
        "--output_dir": tmp_path / "out",
        "--epoch": 1,
        "--token_batch": 20,
        "--use_lora": "true",
        "--lora_rank": 2,
        "--use_process_bar": "true",
    }
    words = [word for pair in flags.items() for word in pair]
    if "=" in spelling:
        words = [f"{name}={value}" for name, value in flags.items()]
    outcome = cli("start-training", *words)
    assert outcome.code == 0, outcome.said
    assert "warning: --use_process_bar has no effect" in outcome.said
    assert outcome.out.startswith("# ytrainer sft CONFIG.yaml\n")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (saved["lora"]["rank"], saved["train"]["token_group_size"]) == (2, 20)
    assert list((tmp_path / "out" / "model").glob("adapter_model.safetensors"))


@pytest.mark.slow
def test_cpt_trains_every_weight_on_raw_text(
    cli: Cli, rows: Rows, base_folder: Path, tmp_path: Path
) -> None:
    data = rows([{"id": i, "output": f"The number {i} comes before {i + 1}."} for i in range(20)])
    outcome = cli(
        "start-training", "--training_type", "cpt", "--model_path_to_load", base_folder,
        "--data_path", data, "--output_dir", tmp_path / "out", "--pack_length", 64,
        "--epoch", 1, "--lr", "1e-3",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    assert "pack_length: 64" in outcome.out
    made = {path.name for path in (tmp_path / "out" / "model").iterdir()}
    assert "model.safetensors" in made and not any("adapter" in name for name in made)
