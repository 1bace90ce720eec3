"""chat: the history is kept, answers end where a turn ends, long conversations are shortened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core.cli.models import reply

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """asked("one", "two"): what is typed, then an empty line."""

    def type_in(*lines: str) -> None:
        typed = iter([*lines, ""])
        monkeypatch.setattr("builtins.input", lambda _: next(typed))

    return type_in


def test_chat_keeps_the_conversation_and_ends_with_an_empty_line(
    cli: Cli, base_folder: Path, asked: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def answer(_: Any, __: Any, messages: list[dict[str, str]], *___: Any, **____: Any) -> str:
        seen.append([(turn["role"], turn["content"]) for turn in messages])
        return f"answer {len(seen)}"

    monkeypatch.setattr("ytrainer_core.cli.models.reply", answer)
    asked("one", "two")
    outcome = cli("chat", base_folder, "--system", "Be brief.")
    assert outcome.code == 0 and outcome.out == "answer 1\nanswer 2\n"
    first = [("system", "Be brief."), ("user", "one")]
    assert seen == [first, [*first, ("assistant", "answer 1"), ("user", "two")]]


def test_the_same_question_is_answered_in_its_context(
    cli: Cli, base_folder: Path, asked: Callable[..., None]
) -> None:
    """What stands before changes what a model of random weights says."""
    alone = cli("chat", base_folder, "--once", "two", "--max-new-tokens", 12).out
    asked("one", "two")
    lines = cli("chat", base_folder, "--max-new-tokens", 12).out
    assert lines.endswith("\n") and alone not in lines


def only_says(make_model: Callable[..., Any], *tokens: int) -> Any:
    """A model that is made to say these tokens, then token 5 for ever."""
    import torch

    model = make_model()
    made = 0
    plain = model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        nonlocal made
        output = plain(*args, **inputs)
        token = tokens[made] if made < len(tokens) else 5
        made += 1
        output.logits = torch.zeros_like(output.logits)
        output.logits[..., -1, token] = 1.0
        return output

    model.forward = forward
    return model


def test_an_answer_ends_with_the_turn(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    words = tokenizer("yes no", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = only_says(make_model, *words, end)
    messages = [{"role": "user", "content": "Well?"}]
    assert reply(model, tokenizer, messages, 50, 0.0) == "yes no"


def test_a_turn_ends_where_the_model_itself_says(
    tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    words = tokenizer("yes no", add_special_tokens=False)["input_ids"]
    model = only_says(make_model, *words)
    model.generation_config.eos_token_id = 5
    said = reply(model, tokenizer, [{"role": "user", "content": "Well?"}], 50, 0.0)
    assert said == "yes no" + tokenizer.decode([5])


def test_words_are_printed_as_they_come_and_are_the_answer(
    tokenizer: Any, make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = tokenizer("the answer is two", add_special_tokens=False)["input_ids"]
    model = only_says(make_model, *words, 2)
    said = reply(model, tokenizer, [{"role": "user", "content": "?"}], 50, 0.0, stream=True)
    assert said == "the answer is two"
    assert capsys.readouterr().out == "the answer is two\n"


def test_the_oldest_turns_go_where_the_model_can_read_no_more(
    tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model(max_position_embeddings=120)
    messages = [{"role": "system", "content": "Be brief."}]
    for number in range(6):
        messages += [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ]
    messages.append({"role": "user", "content": "last"})
    reply(model, tokenizer, messages, 20, 0.0)
    kept = [turn["content"] for turn in messages]
    assert kept[0] == "Be brief." and kept[-1] == "last" and "question 0" not in kept
    assert len(kept) % 2 == 0  # whole exchanges went
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert len(tokenizer(text)["input_ids"]) + 20 <= 120


def test_sampling_depends_on_the_seed(cli: Cli, base_folder: Path) -> None:
    words = ("--once", "Say", "--max-new-tokens", 16, "--temperature", 3.0)
    first, same, other = (
        cli("chat", base_folder, *words, "--seed", seed).out for seed in (1, 1, 2)
    )
    assert first == same != other


def test_a_base_without_a_chat_template_is_refused(
    cli: Cli, base_folder: Path, tmp_path: Path
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(base_folder, bare)
    (bare / "chat_template.jinja").unlink()
    outcome = cli("chat", bare, "--once", "Hello")
    assert outcome.code == 2 and "has no chat template" in outcome.said
