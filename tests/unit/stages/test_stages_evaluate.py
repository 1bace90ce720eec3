"""The evaluate stage: three models on one digest, the verdict, and nothing measured twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core import __version__
from ytrainer_core.config import (
    EvaluateStageConfig,
    LoraConfig,
    ModelConfig,
    RegisterConfig,
    RegistryConfig,
)
from ytrainer_core.errors import CheckpointError, ConfigError, DataError
from ytrainer_core.evaluation.measure import measure
from ytrainer_core.files import home
from ytrainer_core.stages import evaluate as stage
from ytrainer_core.stages.base import StageContext, StageResult
from ytrainer_core.tracking import NullRun
from ytrainer_core.training.model import (
    BaseReference,
    ModelCard,
    add_lora,
    base_digest,
    load_model,
    save_trained,
)

ROWS = [{"instruction": f"Say {w}.", "output": f"{w} {w}"} for w in ("what", "user", "x", "y9")]
TEXT = "The answer to the question is that the sum of two is four.\n\nWhat is the answer?\n"
TALK = [{"instruction": "What is two?", "output": "two"}]

Train = Callable[..., Path]
Evaluate = Callable[..., tuple[StageResult, dict[str, Any]]]


@pytest.fixture
def train(base_folder: Path, tokenizer: Any, tmp_path: Path) -> Train:
    """train(name, seed=, size=, kind=) -> model folder: a base that noise of that size moved."""

    def make(
        name: str = "model", seed: int = 1, size: float = 0.05, kind: str = "adapter",
        base: Path = base_folder, tokens: Any = tokenizer,
    ) -> Path:  # fmt: skip
        model = load_model(base, ModelConfig())
        torch.manual_seed(seed)
        if kind == "adapter":
            model = add_lora(model, LoraConfig(rank=2))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight += size * torch.randn_like(weight)
        card = ModelCard(
            kind=kind,
            base=BaseReference(str(base), "", base_digest(base)),
            dtype="float32",
            ytrainer_version=__version__,
        )
        probe = torch.randint(3, 290, (4, 32), generator=torch.Generator().manual_seed(3))
        save_trained(model.eval(), tokens, tmp_path / name, card, probe)
        return tmp_path / name

    return make


@pytest.fixture
def evaluate(base_folder: Path, tmp_path: Path) -> Evaluate:
    """evaluate(model, out=, **sections) -> (result, evaluation.json)."""
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "general.txt").write_text(TEXT)
    (tmp_path / "talk.json").write_text(json.dumps(TALK))

    def go(model: Path, out: str = "out", **sections: Any) -> tuple[StageResult, dict[str, Any]]:
        tree: dict[str, Any] = {
            "model": {"name_or_path": str(base_folder)},
            "data": {
                "train": str(tmp_path / "talk.json"),
                "validation": str(tmp_path / "rows.json"),
                "general": f"{tmp_path / 'general.txt'},{tmp_path / 'talk.json'}",
                "max_length": 64,
            },
            "evaluate": {"max_new_tokens": 4, "resamples": 50},
            "gate": {"min_rows": 4, "min_target_loss_drop": -9, "max_general_loss_rise": 9},
            "tracking": {"enabled": False},
        }
        for name, given in sections.items():
            tree[name] = {**tree.get(name, {}), **given} if isinstance(given, dict) else given
        config = EvaluateStageConfig.model_validate(tree)
        outputs = {name: tmp_path / out / name for name in stage.STAGE.outputs}
        result = stage.evaluate(config, StageContext({"model": str(model)}, outputs, NullRun()))
        return result, json.loads(outputs["evaluation"].read_text())

    return go


def test_base_and_challenger_are_told_with_intervals_and_their_difference(
    evaluate: Evaluate, train: Train, base_folder: Path
) -> None:
    model = train()
    result, tree = evaluate(model)
    assert sorted(tree) == [
        "champion", "comparisons", "digest", "models", "passed", "reasons", "rows"
    ]  # fmt: skip
    assert (tree["rows"], tree["champion"], tree["passed"]) == (4, "", True)
    assert [*tree["models"]] == ["base", "challenger"] and [*tree["comparisons"]] == ["base"]
    assert tree["models"]["base"]["name"] == str(base_folder)
    base, tuned = (tree["models"][m]["metrics"]["target_loss"] for m in ("base", "challenger"))
    assert base["low"] <= base["value"] <= base["high"] and base["rows"] == 4
    against = tree["comparisons"]["base"]["target_loss"]
    assert against["value"] == pytest.approx(tuned["value"] - base["value"])
    assert result.metrics["target_loss"] == tuned["value"]
    assert result.metrics["base_target_loss"] == base["value"]
    assert result.values == {"passed": True}
    assert result.summary["champion"] == "none"


def test_an_answer_that_was_disliked_is_no_target_but_what_the_others_are_compared_with(
    evaluate: Evaluate, train: Train, tmp_path: Path
) -> None:
    rows = [
        {"prompt": row["instruction"], "completion": f"{row['output']} {liked}", "label": liked}
        for row in ROWS
        for liked in (True, False)
    ]
    (tmp_path / "labelled.json").write_text(json.dumps(rows))
    (tmp_path / "trained.json").write_text(
        json.dumps([{"prompt": "Two?", "completion": "two", "label": True}])
    )
    result, tree = evaluate(
        train(),
        data={
            "train": str(tmp_path / "trained.json"),
            "validation": str(tmp_path / "labelled.json"),
            "purpose": "kto",
            "max_length": 64,
        },
    )
    metrics = tree["models"]["challenger"]["metrics"]
    assert tree["rows"] == len(ROWS)
    assert metrics["target_loss"]["rows"] == metrics["exact_match"]["rows"] == len(ROWS)
    assert metrics["preference_margin"]["rows"] == 2 * len(ROWS)
    assert 0 <= metrics["preference_accuracy"]["value"] <= 1
    assert metrics["preference_margin"]["value"] != 0
    of_base = tree["models"]["base"]["metrics"]
    assert of_base["preference_accuracy"]["value"] == 0.5
    assert of_base["preference_margin"]["value"] == 0
    assert result.values == {"passed": True}


def test_everything_that_is_asked_is_measured(
    evaluate: Evaluate, train: Train, tmp_path: Path
) -> None:
    choices = tmp_path / "choices.jsonl"
    choices.write_text(json.dumps({"question": "Two?", "choices": ["what", "user"], "answer": 1}))
    answers = "exact_match,token_f1,rouge_l"
    _, tree = evaluate(train(), evaluate={"choices": str(choices), "answers": answers,
                                          "max_new_tokens": 4, "resamples": 50})  # fmt: skip
    measured = tree["models"]["challenger"]["metrics"]
    expected = {
        "target_loss", "target_perplexity", "general_loss", "general_perplexity", "exact_match",
        "token_f1", "rouge_l", "choice_accuracy", "choice_accuracy_normalized",
        "general_exact_match", "general_token_f1", "general_rouge_l", "general_answer_agreement",
        "target_kl", "target_agreement", "general_kl", "general_agreement", "repetition",
        "distinct_1", "distinct_2",
    }  # fmt: skip
    assert set(measured) == expected
    only_tuned = {"general_answer_agreement", "target_kl", "target_agreement", "general_kl",
                  "general_agreement"}  # fmt: skip
    assert set(tree["models"]["base"]["metrics"]) == expected - only_tuned
    assert measured["general_exact_match"]["rows"] == 1 and measured["exact_match"]["rows"] == 4
    assert measured["target_kl"]["value"] > 1e-4


def test_the_base_is_measured_as_if_there_were_no_adapter(
    evaluate: Evaluate, train: Train, base_folder: Path
) -> None:
    """Also after an adapter was on it: the champion's base is the one in memory."""
    from ytrainer_core.config import DataConfig
    from ytrainer_core.data.tokenize import tokenize_rows
    from ytrainer_core.scoring.signals import losses_of
    from ytrainer_core.training.model import load_tokenizer

    model, champion = train(), train("champion", seed=2)
    _, tree = evaluate(model, evaluate={"champion": str(champion), "max_generate_rows": 0})
    tokenizer = load_tokenizer(base_folder)
    talks = [
        ([{"role": "user", "content": row["instruction"]},
          {"role": "assistant", "content": row["output"]}], "")
        for row in ROWS
    ]  # fmt: skip
    data = DataConfig()
    rows = tokenize_rows(talks, tokenizer, train_on=data.train_on, system_prompt="")
    read = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]

    def loss(folder: Path) -> float:
        from ytrainer_core.training.model import load_trained

        plain = load_model(folder, ModelConfig()) if folder == base_folder else None
        losses = losses_of(plain or load_trained(folder)[0], read, max_length=0, batch_tokens=999)
        every = torch.cat([torch.from_numpy(row) for row in losses])
        return float(every.double().mean())

    found = {name: of["metrics"]["target_loss"]["value"] for name, of in tree["models"].items()}
    assert found == {
        "base": pytest.approx(loss(base_folder), rel=1e-5),
        "challenger": pytest.approx(loss(model), rel=1e-5),
        "champion": pytest.approx(loss(champion), rel=1e-5),
    }
    assert len({round(value, 6) for value in found.values()}) == 3


# --- measured once -------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for every model that is measured: whether it is a base."""
    found: list[bool] = []
    original = measure

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(kwargs["base"] is None)
        return original(*args, **kwargs)

    monkeypatch.setattr(stage, "measure", counted)
    return found


def test_a_second_evaluation_measures_nothing_and_says_the_same(
    evaluate: Evaluate, train: Train, measured: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, champion = train(), train("champion", seed=2)
    _, first = evaluate(model, evaluate={"champion": str(champion)})
    assert measured == [True, False, False]
    monkeypatch.setattr("ytrainer_core.stages.evaluate_models.load_model", pytest.fail)
    _, second = evaluate(model, out="again", evaluate={"champion": str(champion)})
    assert measured == [True, False, False] and second == first


def test_the_next_challenger_alone_is_measured(
    evaluate: Evaluate, train: Train, measured: list[bool], tmp_path: Path
) -> None:
    """Also where the corpus that is trained on grew: what is held out did not."""
    first = train()
    evaluate(first)
    (tmp_path / "more.json").write_text(json.dumps([*TALK, {"instruction": "a", "output": "b"}]))
    measured.clear()
    result, tree = evaluate(
        train("next", seed=2), evaluate={"champion": str(first)},
        data={"train": str(tmp_path / "more.json"), "validation": str(tmp_path / "rows.json"),
              "general": f"{tmp_path / 'general.txt'},{tmp_path / 'talk.json'}",
              "max_length": 64},
    )  # fmt: skip
    assert measured == [False]
    assert "champion_target_loss" in result.metrics and tree["models"]["champion"]["name"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"evaluate": {"max_new_tokens": 5}},
        {"data": {"max_length": 65}},
        {"data": {"system_prompt": "Be brief."}},
    ],
)
def test_other_settings_are_another_digest(
    change: dict[str, Any], evaluate: Evaluate, train: Train, measured: list[bool]
) -> None:
    model = train()
    _, before = evaluate(model)
    measured.clear()
    _, after = evaluate(model, out="other", **change)
    assert measured == [True, False] and after["digest"] != before["digest"]


def test_rows_that_say_something_else_are_another_digest(
    evaluate: Evaluate, train: Train, measured: list[bool], tmp_path: Path
) -> None:
    model = train()
    _, before = evaluate(model)
    measured.clear()
    (tmp_path / "rows.json").write_text(json.dumps([*ROWS[:3], {**ROWS[3], "output": "other"}]))
    _, after = evaluate(model, out="other")
    assert measured == [True, False] and after["digest"] != before["digest"]


@pytest.mark.parametrize("damage", ["torn", "arrays", "missing", "foreign"])
def test_a_damaged_measurement_is_made_anew(
    damage: str, evaluate: Evaluate, train: Train, measured: list[bool]
) -> None:
    model = train()
    _, before = evaluate(model)
    for folder in (home() / "cache" / "evaluations").iterdir():
        tree, arrays = folder / "measurement.json", folder / "arrays.npz"
        if damage == "torn":
            tree.write_text(tree.read_text()[:40])
        elif damage == "arrays":
            arrays.write_bytes(arrays.read_bytes()[:-9])
        elif damage == "missing":
            arrays.unlink()
        else:
            tree.write_text("[1, 2]")
    measured.clear()
    _, after = evaluate(model, out="again")
    assert measured == [True, False] and after == before


def test_weights_that_changed_are_another_model(
    evaluate: Evaluate, train: Train, measured: list[bool]
) -> None:
    model = train()
    evaluate(model)
    measured.clear()
    shutil.rmtree(model)
    evaluate(train(seed=5), out="again")
    assert measured == [False]


# --- the champion --------------------------------------------------------------------------------


def test_a_challenger_that_fell_behind_the_champion_is_rejected(
    evaluate: Evaluate, train: Train
) -> None:
    worse, champion = train(size=0.6), train("champion", size=1e-4)
    result, tree = evaluate(worse, evaluate={"champion": str(champion), "max_generate_rows": 0})
    assert result.values == {"passed": False} and result.metrics["champion_target_loss"]
    (said,) = [r["text"] for r in tree["reasons"] if "Against the champion, target" in r["text"]]
    assert f"- {said}" in result.summary["reasons"]
    assert tree["models"]["champion"]["name"] == str(champion) == result.summary["champion"]
    assert tree["champion"] == ""  # only a registered version can be promoted over


@pytest.mark.parametrize("champion", ["@champion", ""])
def test_without_a_champion_the_base_alone_is_compared_and_the_reasons_say_why(
    champion: str, evaluate: Evaluate, train: Train
) -> None:
    _, tree = evaluate(train(), evaluate={"champion": champion})
    assert [*tree["models"]] == ["base", "challenger"]
    why = "tracking.enabled=false" if champion else "evaluate.champion is empty"
    assert any(why in reason["text"] for reason in tree["reasons"] if reason["passed"])


def test_nobody_holds_the_alias_yet(evaluate: Evaluate, train: Train) -> None:
    _, tree = evaluate(train(), tracking={"enabled": True}, registry={"name": "nobody"})
    said = "No champion was compared: no version of 'nobody' is @champion yet."
    assert said in [reason["text"] for reason in tree["reasons"]] and tree["passed"]


@pytest.mark.parametrize("kind, form", [("adapter", "auto"), ("full", "auto"), ("adapter", "full")])
def test_the_registered_champion_is_compared_by_its_version(
    kind: str, form: str, evaluate: Evaluate, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter, a full model, and an adapter that was merged when it was registered."""
    from ytrainer_core.registry import promote, register_model, verify

    monkeypatch.setattr(
        "ytrainer_core.registry.register._prove",
        lambda uri, config: verify(uri, tracking=config.tracking),
    )
    folder = train("before", kind=kind, size=0.02)
    config = RegisterConfig(registry=RegistryConfig(name="tiny", form=form))
    version = register_model(folder, config, run=NullRun(), tags={"ytrainer.gate": "passed"})
    promote(version.uri)
    wide = {"min_rows": 4, "min_target_loss_drop": -9, "max_general_loss_rise": 9,
            "champion_tolerance": 9}  # fmt: skip
    for asked in ("@champion", "models:/tiny@champion", "models:/tiny/1"):
        _, tree = evaluate(train(size=0.02), out=f"out-{asked.replace('/', '')}",
                           evaluate={"champion": asked, "max_generate_rows": 0}, gate=wide,
                           tracking={"enabled": True}, registry={"name": "tiny"})  # fmt: skip
        assert tree["champion"] == tree["models"]["champion"]["name"] == "models:/tiny/1"
        same = {m: tree["models"][m]["metrics"]["target_loss"]["value"]
                for m in ("challenger", "champion")}  # fmt: skip
        if kind == "adapter":  # the same noise, so the same model
            assert same["champion"] == pytest.approx(same["challenger"], rel=1e-4)
        else:
            assert same["champion"] != pytest.approx(same["challenger"], rel=1e-4)


def test_a_champion_with_another_vocabulary_is_compared_by_its_answers_alone(
    evaluate: Evaluate, train: Train, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.training.scratch import train_tokenizer

    texts = ["zebra quilt vortex jumps"] * 9
    other = train_tokenizer(texts, ArchitectureConfig(vocab_size=300))
    make_model(seed=4).save_pretrained(tmp_path / "other-base")
    other.save_pretrained(tmp_path / "other-base")
    champion = train("champion", base=tmp_path / "other-base", tokens=other)
    _, tree = evaluate(train(), evaluate={"champion": str(champion), "max_new_tokens": 4})
    found = set(tree["models"]["champion"]["metrics"])
    assert {"exact_match", "token_f1", "general_token_f1", "distinct_1"} <= found
    assert not {"target_loss", "general_loss", "target_kl"} & found
    assert any("reads text in other tokens" in reason["text"] for reason in tree["reasons"])


def test_a_full_model_is_compared_with_the_base_it_was_tuned_from(
    evaluate: Evaluate, train: Train, base_folder: Path
) -> None:
    _, tree = evaluate(train(kind="full"))
    assert tree["models"]["base"]["name"] == str(base_folder)
    assert tree["models"]["challenger"]["metrics"]["target_kl"]["value"] > 1e-4


# --- what is wrong is said before anything is measured ------------------------------------------


def test_a_wrong_rule_is_told_before_anything_is_measured(
    evaluate: Evaluate, train: Train, measured: list[bool]
) -> None:
    with pytest.raises(ConfigError, match=r"there is no metric numreic. Did you mean numeric"):
        evaluate(train(), gate={"rules": "numreic >= 0.5"})
    assert measured == []


def test_a_champion_that_is_no_model_of_ours_is_told(
    evaluate: Evaluate, train: Train, base_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"evaluate.champion: .* holds no model that ytrainer"):
        evaluate(train(), evaluate={"champion": str(base_folder)})


def test_another_base_than_the_one_trained_on_is_refused(
    evaluate: Evaluate, train: Train, base_folder: Path, make_model: Callable[..., Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    base = tmp_path / "base"
    shutil.copytree(base_folder, base)
    model = train(base=base)
    make_model(seed=9).save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"is not the base model .* YTRAINER_BASE_PATH"):
        evaluate(model)


def test_without_a_held_out_row_nothing_can_be_said(
    evaluate: Evaluate, train: Train, tmp_path: Path
) -> None:
    rows = {"train": str(tmp_path / "talk.json"), "validation_fraction": 0, "validation": "",
            "general": ""}  # fmt: skip
    with pytest.raises(DataError, match="no held-out row"):
        evaluate(train(), data=rows)


# --- what comes after ----------------------------------------------------------------------------


def test_register_reads_what_was_written(evaluate: Evaluate, train: Train, tmp_path: Path) -> None:
    from ytrainer_core.stages.register import _evaluation

    result, tree = evaluate(train())
    read = _evaluation(tmp_path / "out" / "evaluation")
    assert {name: read[name] for name in ("passed", "digest", "champion")} == {
        name: tree[name] for name in ("passed", "digest", "champion")
    }
    assert read["metrics"]["target_loss"] == result.metrics["target_loss"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"passed": true, "digest": "d"}'])
def test_register_refuses_what_is_no_evaluation(text: str, tmp_path: Path) -> None:
    from ytrainer_core.stages.register import _evaluation

    (tmp_path / "evaluation").write_text(text)
    with pytest.raises(CheckpointError, match="is not an evaluation"):
        _evaluation(tmp_path / "evaluation")


def test_the_report_tells_all_models_and_their_answers(
    evaluate: Evaluate, train: Train, tmp_path: Path
) -> None:
    champion = train("before", seed=2)
    evaluate(train(), evaluate={"champion": str(champion)})
    page = (tmp_path / "out" / "report").read_text(encoding="utf-8")
    assert "against champion" in page and "challenger − champion" in page
    assert page.count('<div class="label">Challenger') == len(ROWS)
    assert "rows.json:" in page and "Say what." in page
