"""The choice that is chosen is the likeliest as the model itself has it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.errors import DataError
from ytrainer_core.evaluation.choices import ChoiceRow, choice_accuracy, read_choices

Make = Callable[..., Any]

ROWS = [
    ChoiceRow("What is two?", ("four", "the sum of it all", "is"), 1, "a:1"),
    ChoiceRow("the answer", ("two", "question that is the answer"), 0, "a:2"),
    ChoiceRow("sum", ("a", "b", "c", "d"), 3, "a:3"),
    ChoiceRow("你好", ("是", "不是"), 0, "a:4"),
]


def write(folder: Path, *rows: object) -> str:
    path = folder / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def log_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Sum of the answer's token log-probabilities after the prompt, one forward, full logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, :-1].double()
    log_p = logits.log_softmax(-1)[len(prompt) - 1 :]
    return float(log_p.gather(1, torch.tensor(answer)[:, None]).sum())


def accuracies(likelihoods: list[list[float]], rows: list[ChoiceRow]) -> list[list[float]]:
    """[plain, per byte] points of each row."""
    plain = [
        float(max(range(len(own)), key=own.__getitem__) == row.answer)
        for own, row in zip(likelihoods, rows, strict=True)
    ]
    by_byte = [
        [value / len(choice.encode()) for value, choice in zip(own, row.choices, strict=True)]
        for own, row in zip(likelihoods, rows, strict=True)
    ]
    normalized = [
        float(max(range(len(own)), key=own.__getitem__) == row.answer)
        for own, row in zip(by_byte, rows, strict=True)
    ]
    return [plain, normalized]


def chat(tokenizer: Any, question: str, choice: str, system: str = "") -> tuple[list[int], Any]:
    """(prompt, answer with its end-of-turn token) as the chat template prints them."""
    turns = [{"role": "system", "content": system}] * bool(system)
    turns.append({"role": "user", "content": question})
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return (
        tokenizer(prompt, add_special_tokens=False)["input_ids"],
        tokenizer(f"{choice}<|im_end|>", add_special_tokens=False)["input_ids"],
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_the_likeliest_choice_is_the_one_as_the_assistants_answer(
    seed: int, batch_tokens: int, make_model: Make, tokenizer: Any
) -> None:
    model = make_model(seed=seed)
    found = choice_accuracy(model, tokenizer, ROWS, batch_tokens=batch_tokens, max_length=256)
    truth = [
        [log_likelihood(model, *chat(tokenizer, row.question, choice)) for choice in row.choices]
        for row in ROWS
    ]
    plain, normalized = accuracies(truth, ROWS)
    assert found["choice_accuracy"].sums.tolist() == plain
    assert found["choice_accuracy_normalized"].sums.tolist() == normalized
    assert found["choice_accuracy"].counts.tolist() == [1.0] * 4


def test_a_system_prompt_stands_before_the_question(make_model: Make, tokenizer: Any) -> None:
    model = make_model()
    right = []
    for row in ROWS:
        truth = [
            log_likelihood(model, *chat(tokenizer, row.question, choice, "the sum is four"))
            for choice in row.choices
        ]
        right.append(truth.index(max(truth)))
    rows = [
        ChoiceRow(row.question, row.choices, answer, row.origin)
        for row, answer in zip(ROWS, right, strict=True)
    ]
    found = choice_accuracy(
        model,
        tokenizer,
        rows,
        batch_tokens=512,
        max_length=256,
        system_prompt="the sum is four",
    )
    assert found["choice_accuracy"].value == 1.0


@pytest.mark.parametrize("begin", [None, "<|im_start|>"])
def test_without_a_chat_template_the_choice_follows_after_a_blank(
    begin: str | None, make_model: Make, tokenizer: Any
) -> None:
    plain_tokenizer = copy.deepcopy(tokenizer)
    plain_tokenizer.chat_template = None
    start = []
    if begin:
        from tokenizers.processors import TemplateProcessing

        plain_tokenizer.bos_token = begin
        start = [plain_tokenizer.bos_token_id]
        plain_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, start[0])]
        )
    for seed in range(3):
        model = make_model(seed=seed)
        found = choice_accuracy(model, plain_tokenizer, ROWS, batch_tokens=512, max_length=256)
        truth = []
        for row in ROWS:
            prompt = tokenizer(row.question, add_special_tokens=False)["input_ids"]
            answers = [
                tokenizer(f" {c}", add_special_tokens=False)["input_ids"] for c in row.choices
            ]
            truth.append([log_likelihood(model, start + prompt, answer) for answer in answers])
        plain, normalized = accuracies(truth, ROWS)
        assert found["choice_accuracy"].sums.tolist() == plain
        assert found["choice_accuracy_normalized"].sums.tolist() == normalized


def test_long_choices_are_at_a_disadvantage_unless_bytes_are_counted(
    make_model: Make, tokenizer: Any
) -> None:
    """A model that holds every token for equally likely: the shortest text is the likeliest."""
    model = make_model(tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    row = ChoiceRow("q", ("four", "the sum of the answer is two and four"), 1, "a:1")
    tokens = [len(chat(tokenizer, "q", choice)[1]) for choice in row.choices]
    per_byte = [n / len(choice) for n, choice in zip(tokens, row.choices, strict=True)]
    assert tokens[0] < tokens[1] and per_byte[0] > per_byte[1]
    found = choice_accuracy(model, tokenizer, [row], batch_tokens=512, max_length=256)
    assert found["choice_accuracy"].value == 0.0
    assert found["choice_accuracy_normalized"].value == 1.0


def test_bytes_are_counted_and_not_characters(make_model: Make, tokenizer: Any) -> None:
    """Every token is equally likely, and every byte a token: 7 for 是的, 2 for k, the end included.

    By bytes 7/6 < 2/1, by characters 7/2 > 2/1.
    """
    model = make_model(tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    row = ChoiceRow("q", ("k", "是的"), 1, "a:1")
    assert [len(chat(tokenizer, "q", choice)[1]) for choice in row.choices] == [2, 7]
    found = choice_accuracy(model, tokenizer, [row], batch_tokens=512, max_length=256)
    assert found["choice_accuracy"].value == 0.0
    assert found["choice_accuracy_normalized"].value == 1.0


def test_choices_that_are_equally_likely_share_the_point(make_model: Make, tokenizer: Any) -> None:
    """So a model that knows nothing is as good as chance, whichever choice is right."""
    model = make_model(tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    rows = [ChoiceRow("q", ("k", "x", "j", "z"), answer, "a:1") for answer in range(4)]
    found = choice_accuracy(model, tokenizer, rows, batch_tokens=512, max_length=256)
    assert found["choice_accuracy"].sums.tolist() == [0.25] * 4


def test_a_model_that_is_broken_has_no_accuracy(make_model: Make, tokenizer: Any) -> None:
    model = make_model()
    model.model.norm.weight.data[0] = float("nan")
    found = choice_accuracy(model, tokenizer, ROWS, batch_tokens=512, max_length=256)
    assert math.isnan(found["choice_accuracy"].value)


@pytest.mark.parametrize("seed", range(6))
def test_of_a_long_question_the_end_is_read(seed: int, make_model: Make, tokenizer: Any) -> None:
    model = make_model(seed=seed)
    question, choices = "the answer is that " * 30, ("a", "b", "c", "d", "e", "f")
    truth = []
    for choice in choices:
        prompt, answer = chat(tokenizer, question, choice)
        closing = tokenizer("\n", add_special_tokens=False)["input_ids"]  # ends the printed turn
        room = 40 - len(answer) - len(closing)
        truth.append(log_likelihood(model, prompt[-room:], answer))
    rows = [ChoiceRow(question, choices, answer, "a:1") for answer in range(len(choices))]
    found = choice_accuracy(model, tokenizer, rows, batch_tokens=512, max_length=40)
    assert found["choice_accuracy"].sums.tolist().index(1.0) == truth.index(max(truth))


@pytest.mark.parametrize("answer", [1, "B", "b", " B ", "no"])
def test_the_right_choice_is_named_by_number_letter_or_text(tmp_path: Path, answer: object) -> None:
    path = write(tmp_path, {"question": "q", "choices": ["yes", "no"], "answer": answer, "id": 7})
    assert read_choices([path]) == [ChoiceRow("q", ("yes", "no"), 1, f"{path}:1")]


def test_a_choice_that_is_a_letter_is_meant_by_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "q", "choices": ["B", "A"], "answer": "A"})
    assert read_choices([path])[0].answer == 1


def test_choices_may_be_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "2 + 2", "choices": [3, 4, 4.5], "answer": "4"})
    assert read_choices([path]) == [ChoiceRow("2 + 2", ("3", "4", "4.5"), 1, f"{path}:1")]


def test_every_fault_of_every_file_is_told_at_its_line(tmp_path: Path) -> None:
    good = {"question": "q", "choices": ["yes", "no"], "answer": 0}
    path = write(
        tmp_path,
        good,
        {**good, "answer": 2},
        {**good, "answer": -1},
        {**good, "answer": True},
        {**good, "answer": "maybe"},
        {**good, "choices": ["yes"]},
        {**good, "choices": "yes"},
        {**good, "choices": ["yes", ""]},
        {**good, "choices": ["yes", None]},
        {**good, "choices": ["yes", "yes"]},
        {**good, "question": " "},
        {"choices": ["yes", "no"], "answer": 0},
        [1],
    )
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError) as caught:
        read_choices([path, str(empty)])
    *faults, last = caught.value.faults
    assert [fault.removeprefix(f"{path}:").split(":")[0] for fault in faults] == [
        str(line) for line in range(2, 15)
    ]
    says = [
        "'answer' is 2, but the choices are 0 to 1",
        "'answer' is -1, but",
        "'answer' is True, which is no",
        "'answer' is 'maybe', which is no",
        "'choices' is no list of 2 to 26",
        "'choices' is no list",
        "or is empty",
        "neither text nor number",
        "the same text twice",
        "'question' is no text",
        "'question' is no text",
        "is no object",
        "is not JSON",
    ]
    assert all(said in fault for said, fault in zip(says, faults, strict=True))
    assert last == f"{empty}: holds no question. Fill it, or leave it out."


def test_of_many_faults_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_choices([write(tmp_path, *[{"question": ""}] * 30)])
    assert len(caught.value.faults) == 21
    assert caught.value.faults[-1] == "10 more rows of evaluate.choices are wrong."


def test_no_questions_no_rows(make_model: Make, tokenizer: Any) -> None:
    assert read_choices([]) == []
    found = choice_accuracy(make_model(), tokenizer, [], batch_tokens=512, max_length=64)
    assert len(found["choice_accuracy"].sums) == 0
