"""The order stage: from a corpus and its scores to the order file, its report and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ytrainer_core.config import DataConfig, OrderStageConfig
from ytrainer_core.data.corpus import Corpus
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.stages.base import StageContext, StageResult
from ytrainer_core.stages.order import order
from ytrainer_core.tracking import NullRun
from ytrainer_core.training.work import read_order

NLL = [[3.0, 5.0], [], [1.0], [2.0, 2.5], [float("nan"), 1.0]]
ENTROPY = [[1.0, 2.0], [], [0.5], [3.0, 4.0], [1.0, 1.0]]

Ran = tuple[StageResult, dict[str, Any], str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, _nothing_from_outside: None) -> Corpus:
    """Five rows of two files; the first and the last of them ask the same."""
    folder = tmp_path_factory.mktemp("corpus")
    asked = {"a": ["What is up?", "Who is it?", "Where is it?"], "b": ["Why so?", "What is up?"]}
    for name, questions in asked.items():
        rows = [{"instruction": q, "output": f"Answer {name}{i}."} for i, q in enumerate(questions)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    data = DataConfig(
        train=(str(folder / "a.json"), str(folder / "b.json")),
        validation_fraction=0,
        rules={"contradicting_answers": "off"},
    )
    made = prepare_corpus(data, folder / "corpus", tokenizer=None, seed=0)
    assert len(made.train) == 5
    return made


@pytest.fixture
def run(corpus: Corpus, tmp_path: Path) -> Callable[..., Ran]:
    """run(**OrderConfig) -> (result, order file, report)."""
    floats = pa.list_(pa.float32())
    columns = {
        "origin": list(corpus.train["origin"]),
        "nll": pa.array(NLL, floats),
        "entropy": pa.array(ENTROPY, floats),
    }
    pq.write_table(pa.table(columns), tmp_path / "scores")

    def go(**fields: Any) -> Ran:
        outputs = {"order": tmp_path / "out" / "order", "report": tmp_path / "out" / "report"}
        given = {"dataset": str(corpus.folder), "scores": str(tmp_path / "scores")}
        result = order(OrderStageConfig(order=fields), StageContext(given, outputs, NullRun()))
        made = json.loads(outputs["order"].read_text())
        return result, made, outputs["report"].read_text()

    return go


def test_the_order_file_holds_the_permutation_and_the_difficulties_in_that_order(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    result, made, report = run(mode="mean_loss")
    assert made == {
        "mode": "mean_loss",
        "descending": False,
        "schedule": "sorted",
        "group_by": "none",
        "seed": 42,
        "rows": [2, 3, 0, 1, 4],
        "scores": [1.0, 2.25, 4.0, None, None],
    }
    assert result.metrics["rows_ordered"] == 5
    assert result.metrics["rows_without_difficulty"] == 2
    assert result.metrics["mean_difficulty"] == pytest.approx((1 + 2.25 + 4) / 3)
    assert "2, behind all others" in result.summary["rows without a difficulty"]
    assert "2, behind all others" in report and "mean loss of the answer tokens" in report
    assert read_order(tmp_path / "out" / "order", 5) == [2, 3, 0, 1, 4]


def test_direction_and_groups_reach_the_order_and_the_report(run: Callable[..., Ran]) -> None:
    """Rows 0 and 4 ask the same: their group has the mean of row 0, which alone is defined."""
    result, made, report = run(mode="mean_loss", descending=True, group_by="prompt")
    assert made["rows"] == [0, 4, 3, 2, 1]
    assert (made["descending"], made["group_by"]) == (True, "prompt")
    assert result.summary["groups"] == "4 by prompt" and "4 by prompt" in report
    assert run(mode="mean_loss", group_by="file")[1]["rows"] == [3, 4, 2, 0, 1]


@pytest.mark.parametrize("mode", ["none", "file"])
def test_none_and_file_keep_the_rows_but_only_none_leaves_them_to_the_trainer(
    mode: str, run: Callable[..., Ran], tmp_path: Path
) -> None:
    result, made, _ = run(mode=mode)
    assert made["rows"] == [0, 1, 2, 3, 4]
    expected = None if mode == "none" else [0, 1, 2, 3, 4]
    assert read_order(tmp_path / "out" / "order", 5) == expected
    assert ("note" in result.summary) is (mode == "none")


@pytest.mark.parametrize("schedule", ["buckets", "competence"])
def test_a_schedule_is_drawn_by_the_seed_and_said(schedule: str, run: Callable[..., Ran]) -> None:
    result, made, report = run(mode="length", schedule=schedule, buckets=2)
    assert sorted(made["rows"]) == [0, 1, 2, 3, 4] and made["schedule"] == schedule
    assert run(mode="length", schedule=schedule, buckets=2)[1] == made
    assert result.summary["schedule"] in report


def test_rows_of_which_none_has_a_difficulty_keep_their_order(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    """Similarity of answers of one token each."""
    table = pq.read_table(tmp_path / "scores")
    ones = pa.array([[1.0]] * 5, pa.list_(pa.float32()))
    pq.write_table(
        table.set_column(1, "nll", ones).set_column(2, "entropy", ones), tmp_path / "scores"
    )
    result, made, report = run(mode="similarity")
    assert (made["rows"], made["scores"]) == ([0, 1, 2, 3, 4], [None] * 5)
    assert "mean_difficulty" not in result.metrics and "not finite" in report


def test_scores_of_other_rows_are_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "scores")
    pq.write_table(table.slice(0, 4), tmp_path / "scores")
    with pytest.raises(DataError, match="hold different rows"):
        run(mode="mean_loss")


def test_without_scores_it_says_where_they_come_from(corpus: Corpus) -> None:
    context = StageContext({"dataset": str(corpus.folder)}, {}, NullRun())
    with pytest.raises(ConfigError, match=r"'scores' is missing\. Run `ytrainer score` first"):
        order(OrderStageConfig(), context)
