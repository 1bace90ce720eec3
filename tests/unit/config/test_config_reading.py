"""One YAML, then dotted overrides, then every fault at once, each with its place and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ytrainer_core.config import PromoteConfig, SftConfig, load_config
from ytrainer_core.errors import ConfigError


@pytest.fixture
def yaml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def faults(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(SftConfig, path, overrides)
    return list(caught.value.faults)


def test_without_yaml_and_overrides_the_defaults_hold() -> None:
    assert load_config(SftConfig) == SftConfig()


def test_an_empty_yaml_is_the_defaults(yaml: Callable[[str], Path]) -> None:
    assert load_config(SftConfig, yaml("# nothing yet\n")) == SftConfig()


def test_an_override_wins_over_the_yaml_and_leaves_its_neighbours(
    yaml: Callable[[str], Path],
) -> None:
    path = yaml("optim:\n  learning_rate: 3e-4\n  weight_decay: 0.5\nseed: 1\n")
    config = load_config(SftConfig, path, ["optim.learning_rate=1e-5"])
    assert (config.optim.learning_rate, config.optim.weight_decay, config.seed) == (1e-5, 0.5, 1)


def test_an_override_reaches_a_section_that_the_yaml_does_not_have() -> None:
    config = load_config(SftConfig, None, ["objective.nlirg.easy_floor=zero"])
    assert config.objective.nlirg.easy_floor == "zero"


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_a_number_in_any_usual_spelling_is_accepted(text: str, yaml: Callable[[str], Path]) -> None:
    """YAML 1.1 reads 1e-4 as a string."""
    in_yaml = load_config(SftConfig, yaml(f"optim:\n  learning_rate: {text}\n"))
    on_the_command_line = load_config(SftConfig, None, [f"optim.learning_rate={text}"])
    assert in_yaml.optim.learning_rate == on_the_command_line.optim.learning_rate == 1e-4


@pytest.mark.parametrize(
    "override, files",
    [
        ("data.train=a.json,b.json", ("a.json", "b.json")),
        ("data.train=a.json, b.json,", ("a.json", "b.json")),
        ("data.train=[a.json, b.json]", ("a.json", "b.json")),
        ("data.train=a.json", ("a.json",)),
        ("data.train=", ()),
    ],
)
def test_a_list_may_be_one_string_with_commas(override: str, files: tuple[str, ...]) -> None:
    assert load_config(SftConfig, None, [override]).data.train == files


def test_an_unknown_key_is_refused_with_file_line_and_the_nearest_name(
    yaml: Callable[[str], Path],
) -> None:
    path = yaml("seed: 1\noptim:\n  weight_decay: 0.1\n  learning_rat: 1e-4\n")
    assert faults(path) == [
        f"{path}:4: optim.learning_rat: unknown key. Did you mean 'optim.learning_rate'?"
    ]


@pytest.mark.parametrize(
    "override, meant",
    [
        ("optm.learning_rate=1", "optim"),
        ("learning_rate=1", "optim.learning_rate"),
        ("lora.rnk=4", "lora.rank"),
        ("objective.nlirg.easy_slop=2", "objective.nlirg.easy_slope"),
    ],
)
def test_an_unknown_override_names_what_was_meant(override: str, meant: str) -> None:
    (fault,) = faults(None, override)
    assert "unknown key" in fault and f"'{meant}'" in fault


def test_a_key_like_no_other_points_to_the_schema() -> None:
    (fault,) = faults(None, "zzzzzz=1")
    assert fault == "zzzzzz: unknown key. `ytrainer schema <stage>` lists all keys."


def test_a_key_that_is_not_a_string_is_an_unknown_key(yaml: Callable[[str], Path]) -> None:
    """YAML 1.1 reads the key `on` as True."""
    path = yaml("on: 1\n7: 2\n")
    assert [fault.split(". ")[0] for fault in faults(path)] == [
        "True: unknown key",
        f"{path}:2: 7: unknown key",
    ]


def test_all_faults_come_in_one_error(yaml: Callable[[str], Path]) -> None:
    path = yaml(
        "seeds: 1\n"
        "optim:\n"
        "  learning_rate: -1\n"
        "  adam_beta1: fast\n"
        "train:\n"
        "  save_total_limit: 1\n"
        "lora:\n"
        "  rnk: 3\n"
    )
    found = faults(path)
    assert [fault.split(": ")[0] for fault in found] == [
        f"{path}:{line}" for line in (1, 3, 4, 8, 6)
    ]
    assert "greater than 0 (got -1)" in found[1]
    assert "(got 'fast')" in found[2]
    assert "greater than or equal to 2" in found[4]


def test_all_malformed_overrides_come_in_one_error() -> None:
    found = faults(None, "seed", "=3", "seed=1")
    assert found == [
        "'seed' is not key=value. Example: optim.learning_rate=1e-4",
        "'=3' is not key=value. Example: optim.learning_rate=1e-4",
    ]


def test_sections_of_other_stages_are_left_alone(yaml: Callable[[str], Path]) -> None:
    path = yaml("gate:\n  nonsense: 1\nregistry:\n  name: mine\nseed: 5\n")
    assert load_config(SftConfig, path) == SftConfig(seed=5)
    assert load_config(PromoteConfig, path).registry.name == "mine"


def test_an_override_of_another_stages_section_is_left_alone() -> None:
    assert load_config(SftConfig, None, ["gate.min_rows=3"]) == SftConfig()


def test_an_override_below_a_value_is_refused(yaml: Callable[[str], Path]) -> None:
    (fault,) = faults(yaml("optim: fast\n"), "optim.learning_rate=1e-4")
    assert fault.startswith("optim.learning_rate: 'optim' is set to 'fast', which is not a section")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path / "no.yaml")
    assert fault == f"{tmp_path}/no.yaml: no such config file. Start from one in examples/."


def test_broken_yaml_is_named_with_its_line(yaml: Callable[[str], Path]) -> None:
    path = yaml("seed: 1\noptim: [1, 2\n")
    (fault,) = faults(path)
    assert fault.startswith(f"{path}:3: ")


@pytest.mark.parametrize("text, kind", [("- 1\n- 2\n", "list"), ("just words\n", "str")])
def test_yaml_that_is_no_mapping_is_refused(
    text: str, kind: str, yaml: Callable[[str], Path]
) -> None:
    (fault,) = faults(yaml(text))
    assert f"holds a {kind}" in fault


def test_yaml_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("output_dir: Köln\n".encode("latin-1"))
    (fault,) = faults(path)
    assert fault == f"{path}: byte 13 is not UTF-8. Save it as UTF-8."


def test_a_config_error_ends_the_command_with_exit_code_2() -> None:
    assert ConfigError("x").exit_code == 2
