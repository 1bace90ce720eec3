"""score.folds: every row is read by a model that was tuned on the others, and not on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ytrainer_core.config import ScoreStageConfig
from ytrainer_core.data.corpus import load_corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home
from ytrainer_core.scoring.signals import token_signals
from ytrainer_core.stages import score as stage
from ytrainer_core.stages import score_models
from ytrainer_core.stages.base import StageContext, StageResult
from ytrainer_core.stages.common import base_of
from ytrainer_core.tracking import NullRun
from ytrainer_core.training.model import load_trained
from ytrainer_core.training.work import TrainingTask

ROWS = [{"instruction": f"Say {i}.", "output": f"{i} and {i + 1}"} for i in range(7)]
TUNING = {
    "lora": {"rank": 2},
    "optim": {"learning_rate": 1e-2},
    "train": {"num_train_epochs": 1, "pack_length": 64, "logging_steps": 1, "save_epochs": "1"},
}

Score = Callable[..., tuple[StageResult, Path]]


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> Callable[..., ScoreStageConfig]:
    """config(**ScoreConfig) of a corpus of seven rows."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))

    def made(**fields: Any) -> ScoreStageConfig:
        return ScoreStageConfig.model_validate(
            {
                "model": {"name_or_path": str(base_folder)},
                "data": {"train": str(rows), "validation_fraction": 0},
                "score": fields,
                **TUNING,
            }
        )

    return made


@pytest.fixture
def score(config: Callable[..., ScoreStageConfig], tmp_path: Path) -> Score:
    """score(out, **ScoreConfig) -> (result, folder of the outputs)."""

    def go(out: str = "out", run: Any = None, **fields: Any) -> tuple[StageResult, Path]:
        folder = tmp_path / out
        outputs = {name: folder / name for name in stage.STAGE.outputs}
        return stage.score(config(**fields), StageContext({}, outputs, run or NullRun())), folder

    return go


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[TrainingTask]:
    """The trainings that were done."""
    done: list[TrainingTask] = []
    perform = score_models.perform

    def noted(task: TrainingTask, log: Any) -> Any:
        done.append(task)
        return perform(task, log)

    monkeypatch.setattr(score_models, "perform", noted)
    return done


def models() -> list[Path]:
    return [*(home() / "cache" / "folds").glob("*/model")]


def test_each_row_is_left_out_of_one_training_and_read_by_its_model(
    score: Score, config: Callable[..., ScoreStageConfig], tasks: list[TrainingTask]
) -> None:
    result, folder = score(folds=3)
    left_out = [sorted(set(range(len(ROWS))) - set(task.rows)) for task in tasks]
    assert sorted(map(len, left_out)) == [2, 2, 3]
    assert sorted(chain(*left_out)) == list(range(len(ROWS)))
    table = pq.read_table(folder / "scores").to_pydict()
    _, tokenizer = base_of(config().model)
    rows = tokenize_dataset(load_corpus(folder / "dataset").train, tokenizer, config().data)
    for task, numbers in zip(tasks, left_out, strict=True):
        model, _, _ = load_trained(Path(task.root) / "model")
        for number, signals in zip(
            numbers, token_signals(model, [rows[i] for i in numbers]), strict=True
        ):
            assert table["nll"][number] == pytest.approx(signals.nll.tolist(), abs=1e-5)
    assert not [*(home() / "cache" / "folds").glob("*/epochs/*")]
    assert "2/3 of the rows" in result.summary["rows scored"]
    assert result.metrics["fold_target_loss"] > 0 and "base_target_loss" not in result.metrics


def test_the_tuned_models_read_otherwise_than_the_base(score: Score) -> None:
    tables = [
        pq.read_table(folder / "scores")["mean_nll"].to_numpy()
        for folder in (score("base", folds=0)[1], score("folds", folds=2)[1])
    ]
    assert np.abs(tables[0] - tables[1]).min() > 1e-3


def test_what_was_expected_is_said_by_the_model_that_read_the_row(
    score: Score,
    config: Callable[..., ScoreStageConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = []
    read = stage.read_out_of_fold
    monkeypatch.setattr(
        stage, "read_out_of_fold", lambda *args: readings.append(read(*args)) or readings[-1]
    )
    score(folds=2)
    (reading,) = readings
    wanted = [4, 0, 6, 1, 2]
    for number, expected in zip(wanted, reading.expected(wanted), strict=True):
        signals = reading.signals[number]
        assert [likeliest[0][0] for likeliest in expected] == signals.expected.tolist()
        assert [likeliest[0][1] for likeliest in expected] == pytest.approx(
            signals.top_prob.tolist(), abs=1e-5
        )
    assert [row.nll.tolist() for row in reading.signals] == [
        reading.signals[i].nll.tolist() for i in range(len(ROWS))
    ]
    assert reading.signals[-1].nll.tolist() == reading.signals[5:][1].nll.tolist()


def test_a_second_look_trains_nothing(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = score("first", folds=2, method="mean_loss")
    monkeypatch.setattr(score_models, "perform", pytest.fail)
    monkeypatch.setattr("ytrainer_core.scoring.store._Reading.signals", pytest.fail)
    _, second = score("second", folds=2, method="surprise")
    one, other = (pq.read_table(f / "scores").drop(["score", "flagged"]) for f in (first, second))
    assert one.equals(other)


def test_after_a_failure_only_what_was_not_done_is_done(
    score: Score, tasks: list[TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = score_models.perform

    def failing(task: TrainingTask, log: Any) -> Any:
        if tasks:
            raise MemoryError("no room")
        return perform(task, log)

    with monkeypatch.context() as patch:
        patch.setattr(score_models, "perform", failing)
        with pytest.raises(MemoryError):
            score(folds=2)
    assert len(tasks) == len(models()) == 1
    score(folds=2)
    assert len(tasks) == len(models()) == 2


def test_losses_are_logged_by_fold(score: Score) -> None:
    names: set[str] = set()

    class Told(NullRun):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            names.update(metrics)

    score(run=Told(), folds=2)
    assert {"fold_1_loss", "fold_2_loss"} <= names
    assert all(name.startswith("fold_") for name in names)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"folds": 8}, "the corpus has 7"),
        ({"folds": 1}, "leaves no row to tune on"),
        ({"folds": 2, "compare_with": "models:/x/1"}, "Set score.folds=0"),
    ],
)
def test_folds_that_cannot_be(score: Score, fields: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        score(**fields)


def test_a_folds_model_is_tuned_on_the_rows_alone(config: Callable[..., ScoreStageConfig]) -> None:
    with_more = config(folds=2).model_copy(
        update={"data": config().data.model_copy(update={"replay_ratio": 0.5})}
    )
    tuning = score_models.tuning_of(with_more)
    assert (tuning.data.replay_ratio, tuning.data.earlier_ratio) == (0, 0)
    assert tuning.objective.name == "cross_entropy"
    assert tuning.train.save_epochs == () and tuning.lora.rank == 2
