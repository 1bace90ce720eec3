"""The rows go through the model in the order of the order file: alone, in two processes, resumed.

Every training is a whole one, from corpus folder and order file; what is compared are the rows
that reached the model in each optimizer step.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from order_worker import seen_by_step

from ytrainer_core.config import SftConfig, narrow
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import write_json
from ytrainer_core.training.model import base_digest
from ytrainer_core.training.work import TrainingTask, read_order

Make = Callable[..., Any]
SECONDS = 120
FIRST = 100  # numbers of three digits, so that all rows have as many tokens

ONE_ROW = {"pack_length": 40}
THREE_ROWS = {"pack_length": 100}
BATCHING: dict[str, dict[str, Any]] = {
    "one row a pack": {**ONE_ROW, "per_device_batch_size": 2, "gradient_accumulation_steps": 2},
    "three rows a pack": {**THREE_ROWS, "gradient_accumulation_steps": 2},
    "rows of like length": {"batching": "length_grouped", "per_device_batch_size": 4},
    "packs by tokens": {**THREE_ROWS, "micro_batch_tokens": 200},
}
ROWS_A_STEP = {
    "one row a pack": 4,
    "three rows a pack": 6,
    "rows of like length": 4,
    "packs by tokens": 6,
}
"""Of one process; two have twice as many."""

GROUPS = {"batching": "token_groups", "token_group_size": 4}


class PowerCut(Exception):
    """What stops a training half-way."""


@pytest.fixture(scope="module")
def corpus(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, _nothing_from_outside: None
) -> Any:
    """26 conversations of equally many tokens; the question names the row."""
    folder = tmp_path_factory.mktemp("ordered")
    rows = [
        {"instruction": f"What is {FIRST + i}?", "output": f"The answer is {FIRST + i}."}
        for i in range(26)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    tree = {"data": {"train": str(folder / "rows.json"), "validation_fraction": 0}}
    data = narrow(SftConfig, tree).data
    made = prepare_corpus(data, folder / "corpus", tokenizer=tokenizer, seed=0)
    tokens = {len(row["input_ids"]) for row in tokenize_dataset(made.train, tokenizer, data)}
    assert len(made.train) == 26 and tokens == {33}
    return made


def shuffled(rows: int = 26, seed: int = 1) -> list[int]:
    """An order that no trainer comes upon by itself."""
    order = list(range(rows))
    random.Random(seed).shuffle(order)
    return order


@pytest.fixture(scope="module")
def make_task(
    base_folder: Path, corpus: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainingTask]:
    """make_task(order, mode="mean_loss", **TrainConfig) -> TrainingTask of two epochs."""

    def make(order: list[int], mode: str = "mean_loss", **train: Any) -> TrainingTask:
        folder = tmp_path_factory.mktemp("task")
        write_json(folder / "order", {"mode": mode, "rows": order, "scores": [0.0] * len(order)})
        (folder / "work").mkdir()
        config = narrow(
            SftConfig,
            {
                "model": {"name_or_path": str(base_folder)},
                "data": {"train": "unused", "max_length": 128},
                "lora": {"rank": 0},
                "train": {"num_train_epochs": 2, "logging_steps": 1, "save_steps": 0, **train},
            },
        )
        return TrainingTask(
            stage="sft",
            config=config.model_dump(mode="json"),
            corpus=str(corpus.folder),
            data_sha256=corpus.manifest["sha256"],
            order_file=str(folder / "order"),
            base=str(base_folder),
            base_reference={
                "name_or_path": str(base_folder),
                "revision": "",
                "sha256": base_digest(base_folder),
            },
            root=str(folder / "work"),
            run_id="",
        )

    return make


def steps_of(order: list[int], rows: int) -> list[list[int]]:
    """The rows of every step of two epochs."""
    epoch = [
        [FIRST + i for i in order[start : start + rows]] for start in range(0, len(order), rows)
    ]
    return epoch * 2


def silent(metrics: Mapping[str, float], step: int) -> None:
    """Log nothing."""


# --- one process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", BATCHING)
def test_every_step_sees_the_next_rows_of_the_order_in_every_epoch(
    batching: str, make_task: Make
) -> None:
    order = shuffled()
    steps, _ = seen_by_step(make_task(order, **BATCHING[batching]), silent)
    assert steps == steps_of(order, ROWS_A_STEP[batching])


def test_token_groups_go_through_each_row_before_the_next(make_task: Make) -> None:
    """As many steps a row as it has groups of 4 targets."""
    order = shuffled()
    steps, _ = seen_by_step(make_task(order, **GROUPS, num_train_epochs=1), silent)
    assert len(steps) % len(order) == 0
    groups = len(steps) // len(order)
    assert groups > 2
    assert steps == [[FIRST + i] for i in order for _ in range(groups)]


def test_the_mode_file_keeps_the_order_of_the_corpus_and_none_shuffles(make_task: Make) -> None:
    order = list(range(26))
    batching = BATCHING["one row a pack"]
    kept, _ = seen_by_step(make_task(order, "file", **batching), silent)
    assert kept == steps_of(order, 4)
    mixed, _ = seen_by_step(make_task(order, "none", **batching), silent)
    seen = [row for step in mixed for row in step]
    assert sorted(seen[:26]) == sorted(seen[26:]) == [FIRST + i for i in order]
    assert seen[:26] != seen[26:] and seen[:26] != sorted(seen[:26]) != seen[26:]


@pytest.mark.parametrize("batching", [*BATCHING, "token groups"])
@pytest.mark.parametrize("cut", ["first epoch", "second epoch"])
def test_a_continued_training_sees_the_rows_it_would_have_seen(
    batching: str, cut: str, make_task: Make
) -> None:
    order, train = shuffled(), BATCHING.get(batching, GROUPS)
    straight, _ = seen_by_step(make_task(order, **train), silent)
    saved = 2 if cut == "first epoch" else len(straight) // 2 + 1
    task = make_task(order, save_steps=saved, **train)

    def pull_the_plug(metrics: Mapping[str, float], step: int) -> None:
        if step == saved + 1:
            raise PowerCut

    with pytest.raises(PowerCut):
        seen_by_step(task, pull_the_plug)
    steps, result = seen_by_step(task, silent)
    assert result.resumed_from == saved
    assert steps == straight[saved:]


# --- two processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(make_task: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """together(name) -> per process what it saw; all tasks by one start of two processes."""
    folder = tmp_path_factory.mktemp("together")
    order, pairs = shuffled(), BATCHING["one row a pack"]
    cut = asdict(make_task(order, **pairs))
    cases = {
        **{name: {"task": asdict(make_task(order, **train))} for name, train in BATCHING.items()},
        "token groups": {"task": asdict(make_task(order, **GROUPS, num_train_epochs=1))},
        "cut": {"task": cut, "stop_at": 2},
        "continued": {"task": cut},
    }
    (folder / "tasks.json").write_text(json.dumps(cases))
    worker = Path(__file__).with_name("order_worker.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr=127.0.0.1", "--nproc-per-node=2", str(worker), str(folder)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return lambda name: [
        json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)
    ]


@pytest.mark.parametrize("batching", BATCHING)
def test_every_step_of_two_processes_sees_the_next_rows_of_the_order(
    batching: str, together: Make
) -> None:
    """Twice as many as one process. 26 rows come out even nowhere: the last step is short."""
    expected = steps_of(shuffled(), 2 * ROWS_A_STEP[batching])
    found = union(together(batching))
    assert [sorted(step) for step in found] == [sorted(step) for step in expected]


def test_two_processes_take_token_groups_that_follow_one_another(
    together: Make, make_task: Make
) -> None:
    alone, _ = seen_by_step(make_task(shuffled(), **GROUPS, num_train_epochs=1), silent)
    groups = [row for step in alone for row in step]
    expected = [sorted(groups[start : start + 2]) for start in range(0, len(groups), 2)]
    assert [sorted(step) for step in union(together("token groups"))] == expected


def test_two_processes_continue_with_the_rows_they_would_have_seen(together: Make) -> None:
    """SIGTERM when step 2 is told: both stop behind step 3."""
    straight, cut, continued = (together(name) for name in ("one row a pack", "cut", "continued"))
    for whole, before, after in zip(straight, cut, continued, strict=True):
        assert before["resumed_from"] is None and after["resumed_from"] == 3
        assert before["steps"] == whole["steps"][:3]
        assert after["steps"] == whole["steps"][3:]


def union(processes: list[dict[str, Any]]) -> list[list[int]]:
    """The rows of both processes in each step."""
    first, second = (process["steps"] for process in processes)
    return [a + b for a, b in zip(first, second, strict=True)]


# --- the order file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[1, 2]",
        '{"rows": [0, 1]}',
        '{"mode": "length"}',
        '{"mode": "length", "rows": 2}',
        '{"mode": "length", "rows": [0, null]}',
    ],
)
def test_what_is_no_order_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "order").write_text(content)
    with pytest.raises(CheckpointError, match="is not an order file"):
        read_order(tmp_path / "order", 2)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [0, 0], [1, 2]])
def test_an_order_of_other_rows_is_refused(rows: list[int], tmp_path: Path) -> None:
    write_json(tmp_path / "order", {"mode": "length", "rows": rows})
    with pytest.raises(ConfigError, match=f"orders {len(rows)} rows, the corpus has 2"):
        read_order(tmp_path / "order", 2)
