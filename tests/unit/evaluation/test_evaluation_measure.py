"""One model measured: losses over tokens, answers against what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.config import EvaluateConfig
from ytrainer_core.evaluation.generate import generate
from ytrainer_core.evaluation.measure import Question, measure

Make = Callable[..., Any]
CONFIG = EvaluateConfig(max_new_tokens=6, batch_tokens=64)


def test_losses_are_means_over_all_targets_and_perplexity_their_exponential(
    make_model: Make, make_rows: Make, plain_signals: Make, tokenizer: Any
) -> None:
    model, target, general = make_model(), make_rows([9, 20]), make_rows([12], seed=4)
    found = measure(
        model,
        tokenizer,
        target=target,
        general=general,
        questions=[],
        max_length=32,
        config=CONFIG,
    )
    nll = torch.cat([plain_signals(model, row)[0] for row in target])
    other = plain_signals(model, general[0])[0]
    assert found.metrics == {
        "target_loss": pytest.approx(nll.mean().item(), rel=1e-5),
        "target_perplexity": pytest.approx(nll.mean().exp().item(), rel=1e-4),
        "general_loss": pytest.approx(other.mean().item(), rel=1e-5),
        "general_perplexity": pytest.approx(other.mean().exp().item(), rel=1e-4),
    }
    np.testing.assert_allclose(found.nll, nll, rtol=1e-4, atol=1e-5)


def test_without_general_text_and_questions_their_metrics_are_absent(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    found = measure(
        make_model(),
        tokenizer,
        target=make_rows([9]),
        general=[],
        questions=[],
        max_length=32,
        config=CONFIG,
    )
    assert sorted(found.metrics) == ["target_loss", "target_perplexity"] and found.answers == []


def test_answers_are_compared_with_what_was_expected(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    """The first answer is right, the second has nothing in common: half."""
    model, prompts = make_model(), [[40, 50], [41]]
    said = generate(model, tokenizer, prompts, max_new_tokens=6, batch_tokens=64)
    questions = [
        Question(prompts[0], "", said[0]),
        Question(prompts[1], "", "none of these words"),
    ]
    found = measure(
        model,
        tokenizer,
        target=make_rows([9]),
        general=[],
        questions=questions,
        max_length=32,
        config=CONFIG,
    )
    assert found.answers == said
    assert (found.metrics["exact_match"], found.metrics["token_f1"]) == (0.5, 0.5)


def test_a_model_that_is_broken_has_losses_that_are_not_finite(
    make_model: Make, make_rows: Make, tokenizer: Any
) -> None:
    """Not an error: the gate says what it means."""
    model = make_model()
    model.model.norm.weight.data[0] = float("nan")
    found = measure(
        model,
        tokenizer,
        target=make_rows([9]),
        general=[],
        questions=[],
        max_length=32,
        config=CONFIG,
    )
    assert math.isnan(found.metrics["target_loss"])
