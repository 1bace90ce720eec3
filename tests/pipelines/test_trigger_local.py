"""The trigger on this machine, for real: promoted, unchanged, stopped in the middle, gone on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from homes import CLI, client_of, environment, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAME = "retrained"


@dataclass(frozen=True)
class Call:
    """How one call of the trigger ended. survivors: its processes that outlived it."""

    code: int
    out: str
    err: str
    result: dict[str, Any]
    survivors: list[str]


@dataclass(frozen=True)
class Story:
    """Calls in the order in which they were made, in one home."""

    home: Path
    first: Call
    again: Call
    too_slow: Call
    stopped: Call
    running_after: list[str]
    resumed: Call


def started(config: Path, out: Path, *more: str) -> Any:
    command = [*CLI, "trigger", str(config), "--local", "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: Any, out: Path, below: list[psutil.Process] | None = None) -> Call:
    told, said = process.communicate(timeout=1500)
    _, alive = psutil.wait_procs(below or [], timeout=30)
    result = json.loads((out / "result.json").read_text())
    return Call(process.returncode, told, said, result, [str(each) for each in alive])


def sealed(home: Path) -> set[Path]:
    return set((home / "checkpoints").glob("*/checkpoint-*/ytrainer-checkpoint.json"))


def stopped_during_training(config: Path, out: Path, home: Path) -> Call:
    """SIGTERM to the trigger alone, once its training has saved a checkpoint of its own."""
    before = sealed(home)
    process = started(config, out)
    while sealed(home) <= before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below, "the training is a process of its own"
    process.send_signal(signal.SIGTERM)
    return ended(process, out, below)


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, corpus: Any, _nothing_from_outside: None
) -> Story:
    folder = tmp_path_factory.mktemp("trigger")
    home, config, out = folder / "home", folder / "retrain.yaml", folder / "out"
    rows = json.loads((corpus.folder / "train.json").read_text())
    data = folder / "train.json"
    data.write_text(json.dumps(rows[:40]))
    tree = corpus.tree(
        data={"train": str(data)},
        train={"max_steps": 60},
        evaluate={"drift_rows": 0, "max_general_rows": 0},
        gate={"champion_tolerance": 10},
        registry={"name": NAME},
    )
    config.write_text(yaml.safe_dump(tree))
    with environment(home):
        first = ended(started(config, out), out)
        again = ended(started(config, out), out)
        data.write_text(json.dumps(rows))
        too_slow = ended(started(config, out, "--timeout", "0.08"), out)
        stopped = stopped_during_training(config, out, home)
        running = [run.info.run_name for run in runs_of(home, "attributes.status = 'RUNNING'")]
        resumed = ended(started(config, out), out)
    return Story(home, first, again, too_slow, stopped, running, resumed)


def test_the_first_call_trains_from_the_base_and_promotes(story: Story) -> None:
    assert story.first.code == 0, story.first.err
    assert story.first.result["version"] == f"models:/{NAME}/1"
    assert story.first.result["changes"] == ["there is no champion yet"]
    assert story.first.result["init_from"] == ""
    assert set(story.first.result["tasks"].values()) == {"SUCCEEDED"}


def test_the_second_call_finds_nothing_changed(story: Story) -> None:
    assert story.again.code == 7, story.again.err
    assert story.again.out.startswith(f"nothing changed since models:/{NAME}/1 (@champion)")


def test_a_call_that_takes_too_long_is_ended_with_6(story: Story) -> None:
    assert story.too_slow.code == 6, story.too_slow.err
    assert story.too_slow.result["outcome"] == "timed_out"


def test_sigterm_ends_the_training_with_the_trigger_and_closes_its_runs(story: Story) -> None:
    assert story.stopped.code == 5, story.stopped.err
    assert story.stopped.result["outcome"] == "cancelled"
    assert not story.stopped.survivors
    assert not story.running_after


def test_the_next_call_goes_on_and_trains_on_from_the_champion(story: Story) -> None:
    assert story.resumed.code == 0, story.resumed.err
    result = story.resumed.result
    assert result["changes"][0].startswith("data: changed train/")
    assert result["init_from"] == result["previous"] == f"models:/{NAME}/1"
    assert result["version"] == f"models:/{NAME}/2"
    folder = Path(result["run"]) / "stages"
    told = json.loads((folder / "sft.json").read_text())
    assert "continued from" in told["summary"]["optimizer steps"]
    config = json.loads((folder / "sft.config.json").read_text())
    assert config["model"]["init_from"] == f"models:/{NAME}/1"


def test_rows_that_the_champion_was_trained_on_are_replayed(story: Story) -> None:
    folder = Path(story.resumed.result["run"]) / "stages"
    config = json.loads((folder / "validate.config.json").read_text())
    assert config["data"]["earlier_ratio"] == 0.2


def test_both_versions_carry_what_made_them(story: Story) -> None:
    client = client_of(story.home)
    first, second = (client.get_model_version(NAME, number).tags for number in ("1", "2"))
    assert first["ytrainer.trigger.config"] == second["ytrainer.trigger.config"]
    assert first["ytrainer.trigger.data"] != second["ytrainer.trigger.data"]
    assert second["ytrainer.parent"] == f"models:/{NAME}/1"
    assert int(client.get_model_version_by_alias(NAME, "champion").version) == 2
