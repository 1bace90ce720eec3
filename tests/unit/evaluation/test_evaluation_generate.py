"""Answers in batches are the answers one by one, in the order asked, and they stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.evaluation.generate import generate, stop_tokens
from ytrainer_core.objectives.attach import attach_objective

Make = Callable[..., Any]
PROMPTS = [[40, 50, 60, 70, 80, 90], [41], [42, 52, 62], [43, 53], [41, 42, 43, 44]]


def plain_greedy(model: Any, prompt: list[int], stops: list[int], limit: int) -> list[int]:
    """The most likely token again and again, without cache, padding or batch."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 30, 8192])
def test_batched_answers_equal_plain_greedy_decoding_one_by_one(
    batch_tokens: int, make_model: Make, tokenizer: Any
) -> None:
    model = make_model()
    answers = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_tokens=batch_tokens)
    expected = [
        tokenizer.decode(
            plain_greedy(model, prompt, stop_tokens(model, tokenizer), 8), skip_special_tokens=True
        )
        for prompt in PROMPTS
    ]
    assert answers == expected
    assert len(set(answers)) == len(PROMPTS)  # the order of the answers is tested too


def always(model: Any, token: int) -> Any:
    """Make the model say one token whatever it reads."""
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[token] = 9.0
    model.lm_head = head
    return model


@pytest.mark.parametrize(
    "token, new_tokens", [("<|im_end|>", 1), ("<|endoftext|>", 1), ("e", 6), ("<|im_start|>", 6)]
)
def test_an_answer_ends_at_end_of_turn_or_end_of_text(
    token: str, new_tokens: int, make_model: Make, tokenizer: Any
) -> None:
    model = always(make_model(tie_word_embeddings=False), tokenizer.convert_tokens_to_ids(token))
    widths = []
    original = model.generate

    def recorded(**kwargs: Any) -> torch.Tensor:
        output = original(**kwargs)
        widths.append(output.shape[1] - kwargs["input_ids"].shape[1])
        return output

    model.generate = recorded
    answers = generate(model, tokenizer, [[40, 41]], max_new_tokens=6, batch_tokens=100)
    assert widths == [new_tokens]
    assert answers == ["eeeeee" if token == "e" else ""]


def test_what_ends_an_answer_is_the_templates_end_and_what_the_model_says_of_itself(
    make_model: Make, tokenizer: Any
) -> None:
    model = make_model()
    model.generation_config.eos_token_id = [7]
    assert stop_tokens(model, tokenizer) == [
        *tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]),
        7,
    ]


def test_sampling_follows_torchs_seed(make_model: Make, tokenizer: Any) -> None:
    model = make_model()

    def sample(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return generate(
            model, tokenizer, PROMPTS, max_new_tokens=8, batch_tokens=99, temperature=2.0
        )

    assert sample(0) == sample(0) != sample(1)


def test_a_model_in_training_answers_and_goes_on_training(make_model: Make, tokenizer: Any) -> None:
    plain = generate(make_model(), tokenizer, PROMPTS, max_new_tokens=4, batch_tokens=99)
    model = make_model()
    attach_objective(model, ObjectiveConfig())
    model.train()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=4, batch_tokens=99) == plain
    assert model.training


def test_no_prompts_no_answers(make_model: Make, tokenizer: Any) -> None:
    assert generate(make_model(), tokenizer, [], max_new_tokens=4, batch_tokens=99) == []
