"""What CI is told to do: its files parse, their commands exist, and every ending is handled."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines.result import EXIT_CODES
from ytrainer_core.cli.main import app
from ytrainer_core.errors import ERRORS

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github" / "workflows" / "retrain.yml"
GITLAB = ROOT / "docs" / "examples" / "gitlab-retrain.yml"
CRON = ROOT / "docs" / "examples" / "cronjob-retrain.yaml"
PAGE = ROOT / "docs" / "retraining.md"
IS_WELL = {"promoted", "unchanged"}


def tree_of(path: Path) -> dict[Any, Any]:
    tree: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def step(name: str) -> dict[str, Any]:
    steps = tree_of(GITHUB)["jobs"]["retrain"]["steps"]
    return next(each for each in steps if each.get("name") == name)


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """fake(code) -> environment in which `ytrainer` ends with that code, or with 5 on a signal."""

    def make(code: int | None) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "ytrainer"
        ready = tmp_path / "ready"
        program.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, signal, sys, time\n"
            "for each in (signal.SIGINT, signal.SIGTERM):\n"
            "    signal.signal(each, lambda *_: sys.exit(5))\n"
            f"pathlib.Path({str(ready)!r}).write_text(' '.join(sys.argv))\n"
            f"sys.exit({code}) if {code is not None} else time.sleep(30)\n"
        )
        program.chmod(0o755)
        # GitHub's runner and kubectl set these; an empty FORCE is no word
        own = {"KFP_HOST": "http://kfp", "FORCE": "", "PATH": f"{folder}:{os.environ['PATH']}"}
        return os.environ | own

    return make


def run(shell: list[str], script: str, environment: dict[str, str], folder: Path) -> int:
    done = subprocess.run([*shell, script], env=environment, cwd=folder, capture_output=True)
    return done.returncode


def interrupted(
    shell: list[str], script: str, environment: dict[str, str], folder: Path, number: int
) -> int:
    """How a script ends whose first process alone gets a signal while ytrainer works."""
    process = subprocess.Popen([*shell, script], env=environment, cwd=folder)
    while not (folder / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=60)


# --- commands ------------------------------------------------------------------------------------


def commands(path: Path) -> list[str]:
    """Every `ytrainer …` command of a file, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = [re.search(r"\bytrainer trigger [\w./-]+.*", line) for line in lines]
    marks = r"\s*(?:\|\||&|`|\||;| #).*$"
    return [re.sub(marks, "", each[0]) for each in found if each]


@pytest.mark.parametrize("path", [GITHUB, GITLAB, CRON, PAGE], ids=lambda path: path.name)
def test_every_trigger_command_is_one_that_the_command_line_takes(path: Path) -> None:
    group: Any = typer.main.get_command(app)
    found = commands(path)
    assert found
    for command in found:
        _, name, *words = shlex.split(command.replace("$FORCE", "--force"))
        context = group.commands[name].make_context(name, words)
        assert bool(context.params["local"]) != bool(context.params["host"]), command


# --- GitHub --------------------------------------------------------------------------------------


def test_the_workflow_runs_on_changed_rows_by_schedule_and_by_hand() -> None:
    when = tree_of(GITHUB)[True]  # YAML reads `on` as true
    assert "data/**" in when["push"]["paths"]
    assert when["schedule"] and "workflow_dispatch" in when


def test_the_workflow_may_only_read_and_two_never_race() -> None:
    tree = tree_of(GITHUB)
    assert tree["permissions"] == {"contents": "read"}
    assert tree["concurrency"] == {"group": "retrain", "cancel-in-progress": False}


def test_the_job_waits_longer_than_the_trigger() -> None:
    minutes = int(re.search(r"--timeout (\d+)", step("Retrain if anything changed")["run"])[1])  # type: ignore[index]
    assert minutes < tree_of(GITHUB)["jobs"]["retrain"]["timeout-minutes"]


@pytest.mark.parametrize("outcome", [*EXIT_CODES, ""])
def test_the_job_fails_unless_promoted_or_unchanged(outcome: str, tmp_path: Path) -> None:
    environment = os.environ | {"OUTCOME": outcome}
    code = run(["bash", "-e", "-c"], step("Verdict")["run"], environment, tmp_path)
    assert (code == 0) is (outcome in IS_WELL)


def test_the_step_hands_its_outcome_to_the_verdict() -> None:
    assert step("Retrain if anything changed")["id"] == "trigger"
    assert step("Retrain if anything changed")["continue-on-error"] is True
    assert step("Verdict")["env"]["OUTCOME"] == "${{ steps.trigger.outputs.outcome }}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_runners_signal_reaches_the_trigger(number: int, fake: Any, tmp_path: Path) -> None:
    script = step("Retrain if anything changed")["run"]
    assert interrupted(["bash", "-e", "-c"], script, fake(None), tmp_path, number) == 5
    words = (tmp_path / "ready").read_text().split()
    assert words[1:3] == ["trigger", "retrain.yaml"] and "http://kfp" in words


# --- GitLab, CronJob -----------------------------------------------------------------------------


def gitlab_script() -> str:
    return "\n".join(tree_of(GITLAB)["retrain"]["script"])


def cron_script() -> str:
    job = tree_of(CRON)["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    return str(container["args"][0])


@pytest.mark.parametrize("code", sorted(EXIT_CODES.values()))
def test_the_gitlab_job_fails_with_the_triggers_code_but_not_with_7(
    code: int, fake: Any, tmp_path: Path
) -> None:
    (tmp_path / "retrain").mkdir()
    (tmp_path / "retrain" / "summary.md").write_text("told\n")
    found = run(["bash", "-eo", "pipefail", "-c"], gitlab_script(), fake(code), tmp_path)
    assert found == (0 if code == 7 else code)


def test_the_gitlab_job_keeps_its_result_and_runs_alone() -> None:
    job = tree_of(GITLAB)["retrain"]
    assert job["resource_group"] == "retrain"
    assert job["artifacts"]["when"] == "always" and job["artifacts"]["paths"] == ["retrain/"]


@pytest.mark.parametrize("code", sorted(EXIT_CODES.values()))
def test_the_cron_job_fails_with_the_triggers_code_but_not_with_7(
    code: int, fake: Any, tmp_path: Path
) -> None:
    assert run(["sh", "-c"], cron_script(), fake(code), tmp_path) == (0 if code == 7 else code)


def test_a_deleted_cron_job_ends_the_trigger_first(fake: Any, tmp_path: Path) -> None:
    assert interrupted(["sh", "-c"], cron_script(), fake(None), tmp_path, signal.SIGTERM) == 5


def test_the_cron_job_neither_races_nor_repeats() -> None:
    spec = tree_of(CRON)["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0


# --- the page ------------------------------------------------------------------------------------


def test_the_page_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert {name: int(code) for code, name in rows} == EXIT_CODES


def test_every_outcome_ends_with_the_code_of_its_error() -> None:
    assert EXIT_CODES["rejected"] == ERRORS["GateRejected"].exit_code
    assert EXIT_CODES["failed"] == ERRORS["StageFailed"].exit_code
    assert EXIT_CODES["cancelled"] == ERRORS["Cancelled"].exit_code
    assert EXIT_CODES["timed_out"] == ERRORS["TimedOut"].exit_code
    assert EXIT_CODES["invalid"] == ERRORS["ConfigError"].exit_code


def test_every_file_that_the_page_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGE.read_text(encoding="utf-8"))
    assert links and all((PAGE.parent / link).exists() for link in links)
