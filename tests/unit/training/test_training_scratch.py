"""A model from nothing: a tokenizer that knows every byte, ChatML, weights by seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.config import ArchitectureConfig
from ytrainer_core.data.tokenize import tokenize_row
from ytrainer_core.errors import ConfigError
from ytrainer_core.training.scratch import end_of_turn, new_model, train_tokenizer

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


# --- special tokens ------------------------------------------------------------------------------

CALLING = train_tokenizer(
    ["one <tool_call> two </tool_call> three"] * 3,
    ArchitectureConfig(vocab_size=300, special_tokens="<tool_call>,</tool_call>,<|im_end|>"),
)


def test_further_special_tokens_come_after_those_of_chatml_and_are_never_split() -> None:
    assert CALLING.convert_ids_to_tokens([3, 4]) == ["<tool_call>", "</tool_call>"]
    assert CALLING.all_special_tokens == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
    ]  # fmt: skip
    ids = CALLING("a<tool_call>b</tool_call>", add_special_tokens=False)["input_ids"]
    assert CALLING.convert_ids_to_tokens(ids) == ["a", "<tool_call>", "b", "</tool_call>"]


def test_special_tokens_live_through_saving(tmp_path: Path) -> None:
    from ytrainer_core.training.model import load_tokenizer

    CALLING.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.tokenize("a<tool_call>b") == ["a", "<tool_call>", "b"]
    assert again.decode([3], skip_special_tokens=True) == ""


def test_more_special_tokens_than_entries_are_refused() -> None:
    many = tuple(f"<t{i}>" for i in range(50))
    with pytest.raises(ConfigError, match=r"53 special tokens .* architecture\.vocab_size=300"):
        train_tokenizer(["one"], ArchitectureConfig(vocab_size=300, special_tokens=many))


# --- chat template -------------------------------------------------------------------------------

PLAIN_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}<end>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_template(path: Path, text: str) -> Any:
    path.write_text(text, encoding="utf-8")
    shape = ArchitectureConfig(vocab_size=300, special_tokens="<end>", chat_template=str(path))
    return train_tokenizer(["one two three"] * 3, shape)


def test_a_template_of_ones_own_is_printed_and_its_answers_are_trained(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path / "t.jinja", PLAIN_TEMPLATE)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    row = tokenize_row(chat, "", tokenizer, train_on="all_turns", system_prompt="")
    assert tokenizer.decode(row.input_ids) == "[user] Hi\n[assistant] Yo<end>\n"
    assert tokenizer.decode([i for i in row.labels if i != -100]) == "Yo<end>"


def test_a_new_model_ends_its_answers_where_its_template_ends_a_turn(
    tmp_path: Path, tokenizer: Any
) -> None:
    own = with_template(tmp_path / "t.jinja", PLAIN_TEMPLATE)
    assert (end_of_turn(tokenizer), end_of_turn(own)) == ("<|im_end|>", "<end>")
    small = ArchitectureConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    for made_for, ends in ((tokenizer, [2, 0]), (own, [3, 0])):
        new_model(small, made_for, 0).save_pretrained(tmp_path / "model")
        from transformers import GenerationConfig

        assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == ends


@pytest.mark.parametrize(
    "text, reason",
    [
        (None, "no such file"),
        ("{% for m in messages %}", ":1: "),
        ("{{ messages[0].role + 3 }}", "cannot print"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", ""),
        ("{% for m in messages %}{% if m %}{% continue %}{% endif %}{% endfor %}", ""),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error_that_names_the_key(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.jinja"
    if text is not None:
        path.write_text(text)
    shape = ArchitectureConfig(vocab_size=300, chat_template=str(path))
    if not reason:
        assert train_tokenizer(["one"], shape).chat_template == text
        return
    with pytest.raises(ConfigError) as caught:
        end_of_turn(train_tokenizer(["one"], shape))
    assert str(caught.value).startswith("architecture.chat_template: ") and reason in str(
        caught.value
    )


# --- weights -------------------------------------------------------------------------------------


def test_the_weights_are_drawn_on_the_cpu_whatever_device_is_the_default(tokenizer: Any) -> None:
    """A GPU's generator gives other numbers for the same seed; 'meta' stands for any device."""
    small = ArchitectureConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    plain = new_model(small, tokenizer, 5).cpu().state_dict()
    with torch.device("meta"):
        elsewhere = new_model(small, tokenizer, 5).cpu().state_dict()
    assert all(torch.equal(plain[name], elsewhere[name]) for name in plain)
