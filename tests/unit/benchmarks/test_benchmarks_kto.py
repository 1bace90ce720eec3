"""The preference benchmark: its tasks, its figures by hand, and losses that agree three ways."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import kto
from benchmarks.kto_case import chosen_rows, split_rows
from benchmarks.kto_loss import LOSSES, learnability, measure_loss, sigmoid
from benchmarks.kto_methods import ANSWERS_PER_STEP, METHODS, rows_of
from benchmarks.kto_speed import Clock
from benchmarks.kto_tasks import (
    FILLER,
    HABIT,
    KINDS,
    TASKS,
    Question,
    Record,
    Shape,
    feedback,
    habits,
    questions,
    shares,
)
from benchmarks.measure import BenchmarkError
from ytrainer_core.preference.rows import PreferenceRow

SHAPES: tuple[Shape, ...] = ("unpaired", "paired", "liked")


def said(record: Record) -> str:
    answer: str = record["messages"][-1]["content"]
    return answer


def answers_of(record: Record) -> Iterator[tuple[str, bool]]:
    """Every answer of a record, and whether it shall be liked."""
    yield said(record), record["label"] is not False
    for turn in record["rejected"]:
        yield turn["content"], False


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_as_many_answers_and_only_liked_ones_have_the_behaviour(
    name: str, shape: Shape
) -> None:
    task = TASKS[name]
    records = feedback(task, shape, 40, seed=3)
    found = [one for record in records for one in answers_of(record)]
    assert len(found) == 40
    assert len(records) == (20 if shape == "paired" else 40)
    assert all(task.has_behaviour(answer) is liked for answer, liked in found)
    assert sum(liked for _, liked in found) == (40 if shape == "liked" else 20)
    assert len({record["messages"][0]["content"] for record in records}) == len(records)


@pytest.mark.parametrize("name", TASKS)
def test_both_kinds_of_answer_are_right_besides(name: str) -> None:
    task, rng = TASKS[name], random.Random(1)
    for question in questions(60, seed=1):
        for answer in (task.like(question.answer, rng), task.dislike(question.answer, rng)):
            assert task.plain(answer) == question.answer


def test_a_seed_gives_the_same_answers_and_another_seed_others() -> None:
    for task in TASKS.values():
        for shape in SHAPES:
            assert feedback(task, shape, 16, 5) == feedback(task, shape, 16, 5)
            assert feedback(task, shape, 16, 5) != feedback(task, shape, 16, 6)


def test_held_out_questions_are_those_of_no_seeds_training() -> None:
    trained = {question.text for seed in range(5) for question in questions(200, seed)}
    held_out = {q.text for seed in range(5) for q in questions(60, seed, held_out=True)}
    assert not trained & held_out
    assert len(questions(60, 0, held_out=True)) == 60


def test_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="no 5000 different questions"):
        questions(5_000, 0, held_out=True)


@pytest.mark.parametrize("name", TASKS)
def test_the_start_model_reads_the_behaviour_in_half_of_the_answers_by_kind(name: str) -> None:
    task = TASKS[name]
    records, asked = habits(task, 600, 0), questions(600, 0)
    assert [r["messages"][0]["content"] for r in records] == [q.text for q in asked]
    for kind, share in enumerate(HABIT):
        behaved = [
            task.has_behaviour(said(record))
            for record, question in zip(records, asked, strict=True)
            if question.kind == kind
        ]
        assert sum(behaved) / len(behaved) == pytest.approx(share, abs=0.1)
    assert sum(HABIT) / len(KINDS) == pytest.approx(0.5)


def test_shares_of_answers_written_by_hand() -> None:
    asked = [Question("Where is it?", "The book is in the hall.", 5)] * 4
    polite = ["The book is in the hall. Thank you for asking.", "Thank you for asking. The book",
              "The book is in the hall.", "A cup. Please ask me again."]  # fmt: skip
    assert shares(TASKS["polite"], asked, polite) == (0.5, 0.5)
    filled = ["Actually, the book is in the hall.", "The book is in the hall, actually.",
              "The book is in the hall.", "The book is ACTUALLY in the hall."]  # fmt: skip
    assert FILLER == "actually"
    assert shares(TASKS["forbidden word"], asked, filled) == (0.25, 0.75)


def test_records_become_answers_in_tokens_and_unlabelled_ones_count_as_liked(
    tokenizer: Any,
) -> None:
    task = TASKS["polite"]
    pairs = rows_of(feedback(task, "paired", 8, 0), tokenizer, pairs=True)
    assert [row.label for row in pairs] == [True, False] * 4
    assert pairs[0].prompt_ids == pairs[1].prompt_ids
    single = rows_of(habits(task, 4, 0), tokenizer, pairs=False)
    assert [row.label for row in single] == [True] * 4
    row = single[0].trained()
    trained = [label for label in row["labels"] if label != -100]
    assert trained == row["input_ids"][-len(trained) :] == single[0].completion_ids


def numbered(labels: str) -> list[PreferenceRow]:
    """Rows of one token, liked where there is a +; the second has the prompt of the first."""
    return [
        PreferenceRow(f"rows:{i}", [max(i, 1)], [i], label == "+") for i, label in enumerate(labels)
    ]


def test_real_rows_are_split_by_prompt_and_half_of_the_held_out_ones_are_liked() -> None:
    rows = numbered("+-+-+-+-+-+-")
    for seed in range(20):
        known, held_out = split_rows(rows, 4, seed)
        assert [row.label for row in held_out] == [True, True, False, False]
        prompts = [{tuple(row.prompt_ids) for row in part} for part in (known, held_out)]
        assert not prompts[0] & prompts[1]
        shared = sum(row.prompt_ids == [1] for row in held_out)
        assert len(known) == (7 if shared == 1 else 8)


def test_each_method_gets_the_answers_of_its_shape() -> None:
    rows = numbered("+-" * 6)
    labels = {
        name: [row.label for row in chosen_rows(rows, method, 8, 0)]
        for name, method in METHODS.items()
    }
    assert labels["KTO"] == labels["APO-zero"] == [True] * 4 + [False] * 4
    assert labels["DPO, pairs"] == [True, False] * 4
    assert labels["SFT, liked"] == [True] * 4
    pairs = chosen_rows(rows, METHODS["DPO, pairs"], 8, 0)
    assert all(b.completion_ids[0] == a.completion_ids[0] + 1
               for a, b in zip(pairs[::2], pairs[1::2], strict=True))  # fmt: skip
    with pytest.raises(BenchmarkError, match="6 of 7 rows with label True"):
        chosen_rows(rows, METHODS["KTO"], 14, 0)


def test_the_table_holds_mean_least_and_greatest_of_the_seeds() -> None:
    runs = [("KTO", 3e-4), ("DPO, pairs", 1e-4)]
    found = [
        {
            "before": {"behaviour": before, "right": 0.5, "general": 3.0},
            "after": [
                {"behaviour": after, "right": 0.5, "general": 3.1},
                {"behaviour": 1.0, "right": 1.0, "general": 3.2},
            ],
        }
        for before, after in ((0.4, 0.8), (0.5, 0.9), (0.6, 0.7))
    ]
    head, _, start, first, second = kto.behaviour_table(runs, found).splitlines()
    assert "preferred behaviour" in head and "right besides" in head
    assert "| start model " in start and "| 0.50 (0.40 - 0.60) " in start
    assert "| KTO " in first and "| 0.0003 " in first and "| 0.80 (0.70 - 0.90) " in first
    assert "| 1.00 (1.00 - 1.00) " in second and "| 3.200 (3.200 - 3.200) " in second


def test_the_table_of_real_rows_has_accuracy_and_margin() -> None:
    none = {"accuracy": 0.5, "margin": 0.0}
    found = [
        {
            "before": none | {"general": 3.0},
            "after": [{"accuracy": 0.625, "margin": 12.34, "general": 3.25}],
        }
    ]
    *_, start, line = kto.behaviour_table([("KTO", 1e-4)], found).splitlines()
    assert [cell.strip() for cell in start.split("|")[1:-1]] == ["base", "", "0.50", "0.0", "3.000"]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "KTO", "0.0001", "0.62", "12.3", "3.250"
    ]  # fmt: skip


def test_a_loss_that_is_off_and_a_step_that_is_slower_are_called_so() -> None:
    rows = kto.loss_rows(
        {
            "kto": {"loss": 0.5, "trl": 2e-7, "hand": 1.1e-6},
            "kto, nlirg": {"loss": 0.5, "trl": None, "hand": 1e-6},
        }
    )
    assert rows[0][2:] == ["2.0e-07, holds", "1.1e-06, FALLS SHORT"]
    assert rows[1][2:] == ["has none", "1.0e-06, holds"]
    runs = {
        "ytrainer, LoRA": (1.0, 2.0, 9.0),
        "TRL, LoRA": (2.0, 1.0, 2.0),
        "ytrainer, full": (1.1,),
        "TRL, full, precomputed": (1.0,),
    }
    found = {name: [{"seconds_per_step": s} for s in values] for name, values in runs.items()}
    lora, full = kto.speed_lines(found)
    assert lora.endswith("LoRA: 2.000 / 2.000 = 1.000, holds")
    assert full.endswith("full: 1.100 / 1.000 = 1.100, FALLS SHORT")
    assert {name for _, *pair in kto.COMPARED for name in pair} < {
        cell["name"] for cell in kto.SPEED_CELLS
    }


def test_the_clock_leaves_out_what_is_before_the_first_log(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 107.0, 109.0, 113.0])
    monkeypatch.setattr("benchmarks.kto_speed.time.monotonic", lambda: next(times))
    clock = Clock()
    for step, loss in ((4, 0.5), (8, 0.4), (12, 0.3)):
        clock.log({"loss": loss}, step)
    clock.log({"train_runtime": 13.0}, 12)
    assert clock.figures() == {
        "seconds_per_step": 0.75, "before": 7.0, "first_loss": 0.5, "last_loss": 0.3
    }  # fmt: skip


def test_a_number_of_answers_that_makes_no_whole_steps_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=rf"--real-rows: give a multiple of "
                                             rf"{2 * ANSWERS_PER_STEP}"):  # fmt: skip
        kto.main(["--real-rows", "100"])


def test_nlirg_by_hand_is_the_published_curve() -> None:
    values = [learnability(nll) for nll in (0.0, 1.2, 3.0, 6.2, 8.0, 15.0)]
    assert values == pytest.approx([0.1151, 0.5, 0.9552, 0.5, 0.1419, 0.0], abs=1e-4)
    assert sigmoid(math.log(3)) == pytest.approx(0.75)


@pytest.mark.skipif(not importlib.util.find_spec("trl"), reason="trl is not installed")
def test_all_losses_agree_with_trl_and_with_the_formulas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    found = measure_loss({"batches": 3})
    assert list(found) == list(LOSSES)
    for name, one in found.items():
        assert one["hand"] <= kto.MOST_DIFFERENCE
        assert (one["trl"] is None) is ("nlirg" in name)
        assert one["trl"] is None or one["trl"] <= kto.MOST_DIFFERENCE
    # the model is not its reference, and no two losses are the same thing
    assert len({round(one["loss"], 4) for one in found.values()}) == len(LOSSES)
    assert abs(found["dpo"]["loss"] - math.log(2)) > 1e-2
