"""What is written for people is true: schemas, examples, the README's commands, no machine's paths.

Examples and READMEs are found, not listed, so a new one is held to the same.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines.configs import PIPELINE_CONFIGS
from ytrainer_core.cli.main import app, main
from ytrainer_core.config import STAGE_CONFIGS, StageConfig, narrow, walk_fields
from ytrainer_core.config.base import read_tree

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
READMES = sorted(ROOT.glob("README*.md"))

COMMANDS: Any = typer.main.get_command(app)


# --- commands in text ----------------------------------------------------------------------------


def commands_of(text: str) -> list[str]:
    """Every `ytrainer …` command in code blocks and inline code of a Markdown text."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *inline]:
        words = line.strip().removeprefix("$ ").strip()
        # a program in a virtual environment is the same program
        words = re.sub(r"^(\S*/bin/)?(?=ytrainer\b)", "", words)
        if re.match(r"ytrainer(\s|$)", words):
            first, *others = words.split(" · ")  # `ytrainer show · preview` are two commands
            found += [first, *(f"{first.rsplit(' ', 1)[0]} {other}" for other in others)]
    return found


def words_of(command: str) -> list[str]:
    """A command's words without `ytrainer`, its comment, and what a shell would take."""
    words = shlex.split(command, comments=True)[1:]
    stop = next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";", "&")), None)
    return words[:stop]


def fault_of(command: str) -> str:
    """Why the command line has no such command; empty where it has. <NAME> stands for anything."""
    words = words_of(command)
    node, names = COMMANDS, []
    while hasattr(node, "commands"):
        if not words or words[0].startswith("-"):
            break
        word = words.pop(0)
        if _placeholder(word):
            return ""
        choices = word.split("|")  # e.g. `ytrainer registry list|verify`
        for choice in choices:
            if choice not in node.commands:
                return f"'{' '.join([*names, choice])}' is no command"
        node = node.commands[choices[-1]]
        names.append(word)
    options = {name for parameter in node.params for name in parameter.opts}
    unknown = [w.split("=")[0] for w in words if re.match(r"--?[a-zA-Z]", w)]
    unknown = [w for w in unknown if w not in options | {"--help", "-h", "--debug"}]
    return f"{' '.join(names)} has no option {', '.join(unknown)}" if unknown else ""


def config_of(command: str, file: Path | None) -> StageConfig | None:
    """The config a command reads, from `file` in place of the one it names; None where it has none.

    Raises ConfigError as the command would.
    """
    match _without_options(words_of(command)):
        case ["pipeline", "run", name, *rest]:
            model: type[StageConfig] = PIPELINE_CONFIGS[name]
        case ["trigger", *rest]:
            model = PIPELINE_CONFIGS["retrain"]
        case ["show", name, *rest]:
            model = STAGE_CONFIGS[name]
        case ["preview", *rest]:
            model = STAGE_CONFIGS["sft"]
        case [name, *rest] if name in STAGE_CONFIGS:
            model = STAGE_CONFIGS[name]
        case _:
            return None
    overrides = [word for word in rest if "=" in word and not _placeholder(word)]
    return narrow(model, read_tree(file, overrides), file)


def _without_options(words: list[str]) -> list[str]:
    """The arguments alone: options go, and the values of those that take one."""
    valued = {"--input", "--host", "--out", "-n"}
    valued |= {"--pipeline", "--timeout", "--patience", "--poll"}
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in valued
    ]


def _placeholder(word: str) -> bool:
    return any(sign in word for sign in "<>…") or word.isupper()


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("ytrainer demo", ""),
        ("ytrainer pipeline run finetune a.yaml --local seed=1", ""),
        ("ytrainer registry verify models:/m@champion | tail -1", ""),
        ("ytrainer <stage> CONFIG.yaml", ""),
        ("ytrainer fly", "'fly' is no command"),
        ("ytrainer pipeline start finetune", "'pipeline start' is no command"),
        ("ytrainer registry list|fly", "'registry fly' is no command"),
        ("ytrainer demo --fast", "demo has no option --fast"),
    ],
)
def test_a_command_that_does_not_exist_is_told_from_one_that_does(command: str, fault: str) -> None:
    assert fault_of(command) == fault


def test_commands_are_found_in_blocks_and_inline_code() -> None:
    block = "```sh\n$ ytrainer demo\nmake x\n.venv/bin/ytrainer sft a.yaml \\\n  seed=1\n```\n"
    text = f"{block}or `ytrainer pipeline list · run`"
    assert [words_of(command) for command in commands_of(text)] == [
        ["demo"], ["sft", "a.yaml", "seed=1"], ["pipeline", "list"], ["pipeline", "run"],
    ]  # fmt: skip


# --- the README ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_command_of_a_readme_exists_and_its_overrides_are_knobs(path: Path) -> None:
    commands = commands_of(path.read_text(encoding="utf-8"))
    assert commands, "a README shows how to run the thing"
    faults = [f"{command}: {why}" for command in commands if (why := fault_of(command))]
    assert not faults, "\n".join(faults)
    for command in commands:
        examples = [ROOT / word for word in words_of(command) if word.startswith("examples/")]
        config_of(command, examples[0] if examples else None)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_make_target_and_every_file_that_a_readme_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, flags=re.M))
    assert named <= targets
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


# --- examples ------------------------------------------------------------------------------------


def opening_comment(path: Path) -> str:
    """The comment lines a file begins with, without their signs, continued lines joined."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines).replace("\\\n", " ")


def example_commands(path: Path) -> list[str]:
    lines = opening_comment(path).splitlines()
    return [line for line in lines if re.match(r"ytrainer\s", line)]


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_opens_with_the_command_that_runs_it(path: Path) -> None:
    commands = example_commands(path)
    assert commands, f"{path}: no '# ytrainer …' line in the opening comment"
    for command in commands:
        assert not fault_of(command), command
    assert any(f"examples/{path.name}" in words_of(command) for command in commands)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_valid_config_of_its_command(path: Path) -> None:
    configs = [
        config_of(command, path)
        for command in example_commands(path)
        if f"examples/{path.name}" in words_of(command)
    ]
    assert configs and all(configs)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_section_of_an_example_has_an_effect_on_its_command(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    read = {
        name
        for command in example_commands(path)
        if (config := config_of(command, path))
        for name in type(config).model_fields
    }
    assert set(tree) <= read


# --- one declaration -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", sorted(STAGE_CONFIGS))
def test_every_property_of_a_stages_schema_says_what_it_is(stage: str) -> None:
    schema = STAGE_CONFIGS[stage].model_json_schema()
    sections = schema.get("$defs", {})

    def silent() -> Iterator[str]:
        for title, section in {**sections, schema["title"]: schema}.items():
            for name, prop in section["properties"].items():
                meant = sections.get(prop.get("$ref", "").rsplit("/", 1)[-1], {})
                if not (prop.get("description") or meant.get("description")):
                    yield f"{title}.{name}"

    assert schema["description"]
    assert not list(silent())


@pytest.mark.parametrize("stage", sorted(STAGE_CONFIGS))
def test_every_knob_is_described_by_a_whole_sentence(stage: str) -> None:
    for dotted, field in walk_fields(STAGE_CONFIGS[stage]):
        said = field.description or ""
        assert re.match(r"\w.* .*\.$", said, flags=re.S), f"{dotted}: {said!r}"


@pytest.mark.parametrize("stage", sorted(STAGE_CONFIGS))
def test_the_schema_command_prints_the_schema(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["schema", stage])
    assert leaving.value.code == 0
    assert json.loads(capsys.readouterr().out) == STAGE_CONFIGS[stage].model_json_schema()


# --- no machine's paths --------------------------------------------------------------------------

_PRIVATE = ["/" + name for name in ("work/", "root/", "opt/wheels")] + ["pypi.org/" + "simple"]
PRIVATE = re.compile("|".join(
    (r"(?<![\w.~/*-])" if text[0] == "/" else "") + re.escape(text) for text in _PRIVATE
))  # fmt: skip


def tracked_files() -> list[str]:
    """Files that are or would be committed; none where this is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.mark.parametrize(
    ("text", "private"),
    [
        (f"see {_PRIVATE[0]}main", True),
        (f'"{_PRIVATE[1]}.cache"', True),
        (f"--find-links={_PRIVATE[2]}", True),
        (f"https://{_PRIVATE[3]}/torch", True),
        (f"../shared{_PRIVATE[0]}x", False),
        ("the rows that work/rest", False),
    ],
)
def test_a_machines_path_is_told_from_an_ordinary_one(text: str, private: bool) -> None:
    assert bool(PRIVATE.search(text)) is private


def test_no_tracked_file_names_a_path_or_a_registry_of_somebodys_machine() -> None:
    names = tracked_files()
    if not names:
        pytest.skip("not a git checkout")
    faults = []
    for name in names:
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        faults += [
            f"{name}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if PRIVATE.search(line)
        ]
    assert not faults, "\n".join(faults)
