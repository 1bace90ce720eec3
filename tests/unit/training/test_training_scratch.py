"""A model from nothing: a tokenizer that knows every byte, ChatML, weights by seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import ArchitectureConfig
from ytrainer_core.training.scratch import train_tokenizer

TOKENIZER = train_tokenizer(["one two three"] * 3, ArchitectureConfig(vocab_size=300))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_the_special_tokens_come_first() -> None:
    assert TOKENIZER.convert_ids_to_tokens([0, 1, 2]) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (0, 0)


def test_the_vocabulary_is_at_most_as_large_as_configured() -> None:
    texts = ["".join(chr(97 + (i * j) % 26) for j in range(40)) for i in range(50)]
    assert len(train_tokenizer(texts, ArchitectureConfig(vocab_size=310))) == 310


def test_the_template_prints_chatml_and_marks_the_answer() -> None:
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
    ]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert TOKENIZER.apply_chat_template(
        chat[:1], tokenize=False, add_generation_prompt=True
    ).endswith("<|im_end|>\n<|im_start|>assistant\n")
    printed = TOKENIZER.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [
        token
        for token, mask in zip(printed["input_ids"], printed["assistant_masks"], strict=True)
        if mask
    ]
    assert TOKENIZER.decode(answer) == "Yo<|im_end|>"


@pytest.mark.parametrize("tied", [True, False])
def test_weights_depend_on_the_seed_alone_and_the_head_may_be_shared(
    tied: bool, make_model: Callable[..., Any]
) -> None:
    first, same, other = (make_model(seed, tie_word_embeddings=tied) for seed in (0, 0, 1))
    weights = [model.lm_head.weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert (first.lm_head.weight is first.model.embed_tokens.weight) is tied


def test_the_initial_loss_is_that_of_guessing(make_model: Callable[..., Any]) -> None:
    """With small weights all entries are equally likely: ln(entries) nats."""
    model = make_model(initializer_range=0.002)
    ids = torch.arange(3, 40)[None]
    entries = model.config.vocab_size
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(
        torch.tensor(float(entries)).log().item(), abs=0.02
    )
