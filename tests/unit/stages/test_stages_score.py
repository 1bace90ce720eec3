"""The score stage: from a corpus and a model to the table, the kept rows and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from ytrainer_core.config import ScoreStageConfig
from ytrainer_core.data.corpus import load_corpus, read_quarantine
from ytrainer_core.errors import ConfigError
from ytrainer_core.stages import score as stage
from ytrainer_core.stages.base import StageContext, StageResult
from ytrainer_core.tracking import NullRun

Score = Callable[..., tuple[StageResult, Path]]

ROWS = [{"instruction": f"Say {word}.", "output": f"{word} {word}"} for word in ("what", "user")]
ROWS += [
    {"instruction": "Say x.", "output": "zq9 ~~ kkx &&"},
    {"instruction": "Hm?", "output": "?"},
]


@pytest.fixture
def score(base_folder: Path, tmp_path: Path) -> Score:
    """score(**ScoreConfig) -> (result, folder of the outputs)."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))

    def go(out: str = "out", model: Path = base_folder, **fields: Any) -> tuple[StageResult, Path]:
        config = ScoreStageConfig.model_validate(
            {
                "model": {"name_or_path": str(model)},
                "data": {"train": str(rows), "validation_fraction": 0},
                "score": fields,
            }
        )
        folder = tmp_path / out
        outputs = {name: folder / name for name in stage.STAGE.outputs}
        return stage.score(config, StageContext({}, outputs, NullRun())), folder

    return go


def test_every_row_has_its_scores_in_the_table(score: Score) -> None:
    result, folder = score(method="mean_loss", flag_fraction=0.25)
    table = pq.read_table(folder / "scores").to_pydict()
    assert len(table["origin"]) == result.metrics["rows_scored"] == len(ROWS)
    assert table["score"] == table["score_mean_loss"] == table["mean_nll"]
    assert [sum(nll) / len(nll) for nll in table["nll"]] == pytest.approx(table["score"], rel=1e-5)
    worst = table["origin"][table["score"].index(max(table["score"]))]
    assert result.values["flagged"] == [worst]
    assert worst in result.summary["most suspicious"].splitlines()[0]
    assert "score_ifd" not in table


def test_the_loss_without_the_prompt_is_asked_for(score: Score) -> None:
    _, folder = score(method="ifd")
    table = pq.read_table(folder / "scores").to_pydict()
    assert table["score"] == table["score_ifd"]
    assert all(value > 0 for value in table["score_ifd"])


def test_flagged_rows_are_dropped_into_quarantine_where_asked(score: Score) -> None:
    _, whole = score(out="whole")
    limit = sorted(pq.read_table(whole / "scores")["score"].to_pylist())[-2]
    result, folder = score(out="dropped", flag_above=limit, action="drop")
    kept = load_corpus(folder / "dataset")
    gone = [row for row in read_quarantine(kept.folder) if row.rule == "score"]
    assert result.metrics["rows_dropped"] == len(gone) == 2
    assert len(kept.train) == len(pq.read_table(folder / "scores")) == len(ROWS) - 2
    assert {row.origin for row in gone} == set(result.values["flagged"])


def test_a_second_look_at_the_same_rows_asks_the_model_nothing(
    score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = score(out="first", method="mean_loss")
    monkeypatch.setattr("ytrainer_core.scoring.store._Reading.signals", pytest.fail)
    _, second = score(out="second", method="surprise")
    one, other = (pq.read_table(f / "scores").drop(["score", "flagged"]) for f in (first, second))
    assert one.equals(other)


def test_a_second_model_stands_beside_the_first(
    score: Score, base_folder: Path, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    other = make_model(seed=3)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    _, alone = score(out="alone")
    _, beside = score(out="beside", compare_with=str(tmp_path / "other"))
    assert str(tmp_path / "other") in (beside / "report").read_text(encoding="utf-8")
    assert str(tmp_path / "other") not in (alone / "report").read_text(encoding="utf-8")
    assert pq.read_table(alone / "scores").equals(pq.read_table(beside / "scores"))


def test_models_of_different_vocabularies_are_not_compared(
    score: Score, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "other"
    make_model(seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    longer = AutoTokenizer.from_pretrained(folder)
    longer.add_tokens(["<extra>"])
    longer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="has another vocabulary"):
        score(compare_with=str(folder))


def test_a_model_that_gives_no_number_is_named(
    score: Score, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    from ytrainer_core.errors import YTrainerError

    broken = make_model(seed=3)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(YTrainerError, match="no finite number"):
        score(model=tmp_path / "broken")
