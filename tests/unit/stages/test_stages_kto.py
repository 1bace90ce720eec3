"""The kto stage: rows with a label become a delivered model that evaluate and register read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ytrainer_core.config import KtoConfig, SftConfig, narrow
from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.stages.base import StageContext, StageResult
from ytrainer_core.stages.kto import kto
from ytrainer_core.stages.train import sft
from ytrainer_core.tracking import NullRun
from ytrainer_core.training.model import load_trained, probe_logits, read_card

SHARED = Path(__file__).parents[4] / "shared" / "data" / "kto_en_demo.json"
ROWS, HELD_OUT = 30, 10

Run = Callable[..., tuple[StageResult, Path]]


def labelled(first: int, number: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"What is {i} and {i}?",
            "completion": f"The answer is {2 * i}." if i % 2 else f"No idea, {i}.",
            "label": bool(i % 2),
        }
        for i in range(first, first + number)
    ]


@pytest.fixture
def tree(tmp_path: Path, base_folder: Path) -> dict[str, Any]:
    """A small corpus, its held-out rows, and a quick training."""
    (tmp_path / "train.json").write_text(json.dumps(labelled(0, ROWS), indent=1))
    (tmp_path / "held.json").write_text(json.dumps(labelled(100, HELD_OUT), indent=1))
    return {
        "model": {"name_or_path": str(base_folder)},
        "data": {
            "train": str(tmp_path / "train.json"),
            "validation": str(tmp_path / "held.json"),
            "max_length": 96,
        },
        "lora": {"rank": 4},
        "optim": {"learning_rate": 1e-2},
        "train": {"max_steps": 6, "logging_steps": 1, "save_steps": 0},
    }


@pytest.fixture
def run(tree: dict[str, Any], tmp_path: Path) -> Run:
    """run(**sections, name="out") -> (result, folder of the outputs)."""

    def go(name: str = "out", **sections: dict[str, Any]) -> tuple[StageResult, Path]:
        merged = {**tree, **{key: {**tree.get(key, {}), **s} for key, s in sections.items()}}
        return kto(narrow(KtoConfig, merged), context(tmp_path / name)), tmp_path / name

    return go


def context(folder: Path) -> StageContext:
    outputs = {name: folder / name for name in ("model", "report", "epochs")}
    return StageContext({}, outputs, NullRun())


def as_it_was(folder: Path, base: Path) -> None:
    """The delivered model says on its probe what it said when it was saved."""
    model, _, _ = load_trained(folder, base_override=str(base))
    probe = load_file(folder / "probe.safetensors")
    logits = probe_logits(model, probe["input_ids"])
    torch.testing.assert_close(logits, probe["logits"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rank", "kind"), [(4, "adapter"), (0, "full")])
def test_it_delivers_a_model_as_sft_does(rank: int, kind: str, run: Run, base_folder: Path) -> None:
    result, folder = run(lora={"rank": rank})
    card = read_card(folder / "model")
    assert card.kind == kind and card.config["preference"]["loss"] == "kto"
    assert not (folder / "model" / "ref").exists()
    as_it_was(folder / "model", base_folder)
    assert result.metrics["optimizer_steps"] == 6
    assert result.summary["rows"] == "15 liked, 15 disliked"
    source = "the adapter switched off" if rank else "computed beforehand"
    assert result.summary["reference"] == source
    report = (folder / "report").read_text()
    assert "Rewards" in report and "Margin between liked and disliked answers" in report


def test_a_pissa_adapter_is_delivered_as_one_on_the_original_base(
    run: Run, base_folder: Path
) -> None:
    result, folder = run(lora={"init": "pissa"})
    assert result.summary["reference"] == "computed beforehand"
    assert result.summary["training loss"].startswith("0.500 -> ")
    as_it_was(folder / "model", base_folder)


def test_kept_epochs_are_models_of_their_own(run: Run, base_folder: Path) -> None:
    _, folder = run(train={"max_steps": 0, "num_train_epochs": 2, "save_epochs": [1]})
    (kept,) = (folder / "epochs").iterdir()
    assert kept.name == "epoch-1" and not (kept / "ref").exists()
    as_it_was(kept, base_folder)
    name = "adapter_model.safetensors"
    assert (kept / name).read_bytes() != (folder / "model" / name).read_bytes()


@pytest.mark.parametrize("rank", [4, 0])
def test_in_bfloat16_policy_and_reference_begin_as_one(rank: int, run: Run) -> None:
    result, _ = run(model={"dtype": "bfloat16"}, lora={"rank": rank}, train={"max_steps": 2})
    assert result.summary["training loss"].startswith("0.500 -> ")


def test_it_stops_early_by_the_held_out_accuracy(run: Run) -> None:
    """Which does not improve any more once it is 1."""
    stopping = {"patience": 2, "metric": "accuracy"}
    result, _ = run(train={"max_steps": 200, "eval_steps": 2, "early_stopping": stopping})
    assert result.metrics["held_out_accuracy"] > 0.9
    assert "(stopped early)" in result.summary["optimizer steps"]


def test_the_held_out_rows_are_measured_after_the_last_step(run: Run) -> None:
    result, _ = run(train={"max_steps": 30})
    assert result.metrics["held_out_accuracy"] > 0.9
    assert result.metrics["held_out_rewards_margins"] > 0
    assert result.summary["held-out accuracy"] == f"{result.metrics['held_out_accuracy']:.1%}"


def test_the_same_work_is_not_done_twice(run: Run) -> None:
    first, one = run()
    again, two = run(name="again")
    assert "nothing was left to do" in again.summary["resume"]
    assert again.metrics == first.metrics
    name = "adapter_model.safetensors"
    assert (one / "model" / name).read_bytes() == (two / "model" / name).read_bytes()


@pytest.mark.parametrize("rank", [4, 0])
def test_it_goes_on_from_an_adapter_of_ours_which_is_the_reference(
    rank: int, run: Run, tree: dict[str, Any], tmp_path: Path, base_folder: Path
) -> None:
    """At the first step policy and reference are one: a loss of one half, rewards of 0."""
    liked = [{k: v for k, v in row.items() if k != "label"} for row in labelled(0, ROWS)]
    (tmp_path / "liked.json").write_text(json.dumps(liked, indent=1))
    data = {**tree["data"], "train": str(tmp_path / "liked.json"), "validation_fraction": 0}
    data.pop("validation")
    sft(narrow(SftConfig, {**tree, "data": data}), context(tmp_path / "tuned"))
    tuned = tmp_path / "tuned" / "model"
    result, folder = run(model={"init_from": str(tuned)}, lora={"rank": rank})
    assert result.summary["training loss"].startswith("0.500 -> ")
    assert result.summary["reference"] == "computed beforehand"
    assert read_card(folder / "model").parent_sha256
    as_it_was(folder / "model", base_folder)


def test_pairs_train_dpo_and_kto_through_the_same_stage(run: Run, tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": f"No idea, {i}."}
        for i in range(20)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs, indent=1))
    data = {
        "train": str(tmp_path / "pairs.json"),
        "validation": "",
        "validation_fraction": 0,
        "purpose": "preference",
    }
    for loss, start in (("dpo", "0.693"), ("kto", "0.500")):
        result, _ = run(name=loss, data=data, preference={"loss": loss})
        assert result.summary["rows"] == "20 liked, 20 disliked"
        assert result.summary["training loss"].startswith(start)
        assert "no held-out accuracy is measured" in result.summary["note"]


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"preference": {"loss": "dpo"}}, r"Set data\.purpose=preference"),
        ({"data": {"purpose": "sft"}}, r"Set data\.purpose=kto"),
        ({"data": {"on_too_long": "split"}}, "liked as a whole"),
        ({"lora": {"rank": 0}, "preference": {"reference": "adapter_off"}}, "needs an adapter"),
        (
            {"lora": {"init": "pissa"}, "preference": {"reference": "adapter_off"}},
            "taken the adapter out",
        ),
        ({"lora": {"dropout": 0.1}}, r"Set lora\.dropout=0"),
        ({"launch": {"processes": 2}}, "runs in one process so far"),
        ({"preference": {"batch_size": 1}}, r"preference\.batch_size.*greater than or equal to 2"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(
    sections: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        narrow(KtoConfig, sections)


def test_knobs_without_effect_and_a_rate_that_breaks_models_are_told(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lora={"rank": 0}, train={"pack_length": 64, "max_steps": 1})
    said = capsys.readouterr().err
    assert "train.pack_length has no effect here; preference.batch_size" in said
    assert "optim.learning_rate=0.01 is much where every weight is trained" in said


def test_without_trl_it_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ytrainer\[kto\]'"):
        run()


def test_rows_of_one_kind_are_refused(run: Run, tmp_path: Path) -> None:
    liked = [row for row in labelled(0, ROWS) if row["label"]]
    (tmp_path / "train.json").write_text(json.dumps(liked, indent=1))
    with pytest.raises(DataError, match="none of 15 answers is disliked"):
        run()


def test_evaluations_need_held_out_rows_of_both_kinds(run: Run, tmp_path: Path) -> None:
    liked = [row for row in labelled(100, HELD_OUT) if row["label"]]
    (tmp_path / "held.json").write_text(json.dumps(liked, indent=1))
    with pytest.raises(DataError, match=r"train\.eval_steps=2.*5 are liked and 0 disliked"):
        run(train={"eval_steps": 2})


@pytest.mark.skipif(not SHARED.exists(), reason="the shared corpora are not here")
def test_a_published_corpus_trains_from_the_file_as_it_is(run: Run) -> None:
    data = {
        "train": str(SHARED),
        "validation": "",
        "max_length": 1024,
        "on_too_long": "truncate",
        "max_dropped": 0.3,
        "max_rows": 60,
    }
    result, folder = run(data=data, train={"max_steps": 3})
    liked, disliked = (int(part.split()[0]) for part in result.summary["rows"].split(", "))
    assert liked > 5 and disliked > 5
    assert (folder / "model" / "adapter_model.safetensors").exists()
