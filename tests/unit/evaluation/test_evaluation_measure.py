"""One model measured: losses over tokens, answers against what was expected, row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.evaluation.choices import ChoiceRow
from ytrainer_core.evaluation.generate import generate
from ytrainer_core.evaluation.intervals import RowValues
from ytrainer_core.evaluation.measure import Exam, Measurement, Question, measure
from ytrainer_core.evaluation.preferences import Preferences
from ytrainer_core.evaluation.tasks import answer_metrics

Make = Callable[..., Any]


def exam(
    target: Sequence[Any] = (),
    general: Sequence[Any] = (),
    questions: Sequence[Question] = (),
    general_questions: Sequence[Question] = (),
    choices: Sequence[ChoiceRow] = (),
    seed: int = 0,
    **config: Any,
) -> Exam:
    settings = EvaluateConfig(**({"max_new_tokens": 6, "batch_tokens": 64} | config))
    metrics = answer_metrics(settings)
    return Exam(target, general, questions, general_questions, choices, metrics, 32, settings, seed)


def rows_of(found: Measurement, name: str) -> RowValues:
    values = found.scores[name]
    assert isinstance(values, RowValues)
    return values


def test_losses_are_means_over_all_targets_and_known_by_row(
    make_model: Make, make_rows: Make, plain_signals: Make, tokenizer: Any
) -> None:
    model, target, general = make_model(), make_rows([9, 20]), make_rows([12], seed=4)
    found = measure(model, tokenizer, exam(target, general, drift_rows=0))
    nll = [plain_signals(model, row)[0] for row in target]
    other = plain_signals(model, general[0])[0]
    assert sorted(found.scores) == ["general_loss", "target_loss"]
    assert found.scores["target_loss"].value == pytest.approx(
        torch.cat(nll).mean().item(), rel=1e-5
    )
    assert found.scores["general_loss"].value == pytest.approx(other.mean().item(), rel=1e-5)
    assert rows_of(found, "target_loss").sums == pytest.approx([n.sum().item() for n in nll])
    assert rows_of(found, "target_loss").counts.tolist() == [7, 18]
    for got, want in zip(found.nll, nll, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_without_general_text_and_questions_their_metrics_are_absent(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    found = measure(make_model(), tokenizer, exam(make_rows([9]), drift_rows=0))
    assert [*found.scores] == ["target_loss"] and found.answers == []


def test_rows_without_a_target_are_no_loss_of_zero(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    rows = make_rows([9], prompt=9)
    found = measure(make_model(), tokenizer, exam(rows, rows))
    assert found.scores == {}


def test_answers_are_compared_with_what_was_expected(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    """The first answer is right, the second has nothing in common: half."""
    model, prompts = make_model(), [[40, 50], [41]]
    said = generate(model, tokenizer, prompts, max_new_tokens=6, batch_tokens=64)
    questions = [Question(prompts[0], "", said[0]), Question(prompts[1], "", "none of these words")]
    found = measure(model, tokenizer, exam(make_rows([9]), questions=questions))
    assert found.answers == said
    for name in ("exact_match", "token_f1"):
        assert rows_of(found, name).sums.tolist() == [1, 0]
        assert f"general_{name}" not in found.scores
    assert {"repetition", "distinct_1", "distinct_2"} <= set(found.scores)


def test_general_questions_have_metrics_of_their_own(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    model = make_model()
    said = generate(model, tokenizer, [[40, 50]], max_new_tokens=6, batch_tokens=64)
    asked = [Question([40, 50], "", said[0])]
    found = measure(model, tokenizer, exam(make_rows([9]), general_questions=asked))
    assert found.general_answers == said and found.answers == []
    assert found.scores["general_exact_match"].value == 1 and "exact_match" not in found.scores


def test_a_tuned_model_is_told_how_far_it_went_from_its_base(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    asked = [Question([40, 50], "", "")]
    of = exam(make_rows([9, 20]), make_rows([12]), general_questions=asked)
    base = measure(make_model(), tokenizer, of)
    same = measure(make_model(), tokenizer, of, base=base)
    other = measure(make_model(seed=3), tokenizer, of, base=base)
    drifts = ["target_kl", "target_agreement", "general_kl", "general_agreement"]
    assert set(base.summaries) == {"target", "general"} and not set(drifts) & set(base.scores)
    assert [same.scores[name].value for name in drifts] == pytest.approx([0, 1, 0, 1], abs=1e-5)
    assert same.scores["general_answer_agreement"].value == 1
    assert other.scores["target_kl"].value > 0.1 and other.summaries == {}
    assert other.scores["general_answer_agreement"].value < 1


@pytest.mark.parametrize("most, rows", [(0, None), (1, 1), (5, 2)])
def test_drift_is_measured_on_as_many_rows_as_asked(
    most: int, rows: int | None, make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    of = exam(make_rows([9, 20]), drift_rows=most)
    base = measure(make_model(), tokenizer, of)
    found = measure(make_model(seed=3), tokenizer, of, base=base)
    assert rows is None or len(rows_of(found, "target_kl").sums) == rows
    assert ("target_kl" in found.scores) is (rows is not None)


def test_multiple_choice_is_measured_where_there_is_some(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    """Of a right and a wrong answer one is the likelier: turned round, it is wrong."""
    asked = [ChoiceRow("Two?", ("the answer", "user"), right, "o") for right in (0, 1)]
    found = measure(make_model(), tokenizer, exam(make_rows([9]), choices=asked))
    assert sorted(rows_of(found, "choice_accuracy").sums.tolist()) == [0, 1]


def test_sampled_answers_are_the_same_for_the_same_seed_and_leave_no_trace(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    model, asked = make_model(), [Question([40 + i, 50], "", "") for i in range(6)]

    def answers(seed: int) -> list[str]:
        of = exam(make_rows([9]), questions=asked, temperature=2.0, seed=seed)
        return measure(model, tokenizer, of).answers

    torch.manual_seed(5)
    first = answers(0)
    drawn = torch.rand(1)
    assert answers(0) == first != answers(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn


def test_for_other_tokens_only_what_is_said_can_be_compared(
    make_rows: Make, tokenizer: Any
) -> None:
    asked = [Question([1, 2], "Two?", "two", "What is two?")]
    liked = Preferences(make_rows([9, 9]), np.array([True, False]), paired=True)
    whole = exam(make_rows([9]), make_rows([9]), asked, asked)
    other = dataclasses.replace(whole, preferences=liked).for_other_tokens(tokenizer)
    assert len(other.target) == len(other.general) == 0 and other.preferences is None
    ids = tokenizer("What is two?", add_special_tokens=False)["input_ids"]
    expected = dataclasses.replace(asked[0], prompt_ids=ids)
    assert list(other.questions) == list(other.general_questions) == [expected]


def test_a_model_that_is_broken_has_losses_that_are_not_finite(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    """Not an error: the gate says what it means."""
    model = make_model()
    model.model.norm.weight.data[0] = float("nan")
    found = measure(model, tokenizer, exam(make_rows([9]), drift_rows=0))
    assert math.isnan(found.scores["target_loss"].value)
