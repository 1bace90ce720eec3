"""Labels lie on what the assistant says and on the token that ends it, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_examples import MARKED, THINKING, UNMARKED
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.config import DataConfig
from ytrainer_core.data.tokenize import (
    IGNORED,
    Tokenized,
    mask_segments,
    tokenize_dataset,
    tokenize_row,
    tokenize_rows,
)
from ytrainer_core.errors import DataError
from ytrainer_core.files import home

Chat = list[dict[str, str]]


def chat(*turns: str) -> Chat:
    """'u:hello' -> user says hello."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[turn[0]], "content": turn[2:]} for turn in turns]


LONG = chat("s:be kind", "u:hi", "a:the answer", "u:and?", "a:call", "t:7", "a:seven\n")


def tokens(messages: Chat, tokenizer: Any, **knobs: Any) -> Tokenized:
    return tokenize_row(
        messages, "", tokenizer, **{"train_on": "all_turns", "system_prompt": "", **knobs}
    )


def trained(row: Tokenized, tokenizer: Any) -> list[str]:
    return [text for text, flag in mask_segments(row, tokenizer) if flag]


@pytest.fixture(params=["marked", "unmarked"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_every_answer_and_its_end_token_is_trained_and_nothing_else(tokenizer: Any) -> None:
    segments = mask_segments(tokens(LONG, tokenizer), tokenizer)
    assert segments == [
        (
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        ("the answer<|im_end|>", True),
        ("\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n", False),
        ("call<|im_end|>", True),
        ("\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n", False),
        ("seven\n<|im_end|>", True),
        ("\n", False),
    ]


def test_last_turn_trains_the_last_answer_only(tokenizer: Any) -> None:
    row = tokens(LONG, tokenizer, train_on="last_turn")
    assert trained(row, tokenizer) == ["seven\n<|im_end|>"]
    assert row.input_ids == tokens(LONG, tokenizer).input_ids


def test_labels_are_the_ids_where_trained_and_never_the_first_token(tokenizer: Any) -> None:
    row = tokens(LONG, tokenizer)
    assert len(row.labels) == len(row.input_ids)
    assert row.labels[0] == IGNORED
    pairs = zip(row.labels, row.input_ids, strict=True)
    assert all(label in (IGNORED, token) for label, token in pairs)
    assert row.trained_tokens == sum(label != IGNORED for label in row.labels) > 0


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.tuples(st.text(max_size=12), st.text(min_size=1, max_size=12)), min_size=1),
    system=st.text(max_size=5),
    train_on=st.sampled_from(["all_turns", "last_turn"]),
)
def test_marked_and_unmarked_templates_give_equal_labels(
    marked: Any, unmarked: Any, turns: list[tuple[str, str]], system: str, train_on: str
) -> None:
    messages = [
        message
        for ask, say in turns
        for message in ({"role": "user", "content": ask}, {"role": "assistant", "content": say})
    ]
    knobs = {"train_on": train_on, "system_prompt": system}
    assert tokens(messages, marked, **knobs) == tokens(messages, unmarked, **knobs)


def test_the_first_token_is_not_trained_even_where_an_answer_begins_there(
    make_tokenizer: Callable[[str], Any],
) -> None:
    answers_only = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(answers_only)
    row = tokens(chat("u:q", "a:the answer"), tokenizer)
    assert row.labels == [IGNORED, *row.input_ids[1:]]


def test_the_end_token_is_trained_where_a_mark_leaves_it_out(
    make_tokenizer: Callable[[str], Any],
) -> None:
    outside = MARKED.replace(
        "+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{- '<|im_end|>' }}"
    )
    assert outside != MARKED
    tokenizer = make_tokenizer(outside)
    assert trained(tokens(chat("u:q", "a:the answer"), tokenizer), tokenizer) == [
        "the answer<|im_end|>"
    ]


def test_the_newline_after_the_end_token_is_not_trained_where_a_mark_includes_it(
    make_tokenizer: Callable[[str], Any],
) -> None:
    inside = MARKED.replace(
        "'<|im_end|>' }}{% endgeneration %}{{- '\\n' }}", "'<|im_end|>\\n' }}{% endgeneration %}"
    )
    assert inside != MARKED
    tokenizer = make_tokenizer(inside)
    assert trained(tokens(chat("u:q", "a:x", "u:q", "a:y"), tokenizer), tokenizer) == [
        "x<|im_end|>",
        "y<|im_end|>",
    ]


def test_a_template_without_end_tokens_gets_one_end_of_sequence(
    make_tokenizer: Callable[[str], Any],
) -> None:
    bare = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = make_tokenizer(bare)
    row = tokens(chat("u:q", "a:x"), tokenizer)
    assert trained(row, tokenizer) == ["x<|endoftext|>"]
    open_row = tokens(chat("u:q", "a:x"), tokenizer, add_eos=False)
    assert trained(open_row, tokenizer) == ["x"]


def test_a_system_prompt_comes_before_conversations_that_have_none(tokenizer: Any) -> None:
    said = mask_segments(tokens(chat("u:q", "a:x"), tokenizer, system_prompt="rule"), tokenizer)
    kept = mask_segments(tokens(LONG, tokenizer, system_prompt="rule"), tokenizer)
    assert said[0][0].startswith("<|im_start|>system\nrule<|im_end|>\n<|im_start|>user\nq")
    assert "rule" not in kept[0][0]


@pytest.mark.parametrize(
    ("messages", "answers"),
    [
        (chat("u:q", "a:e"), ["<think>\n\n</think>\n\ne<|im_end|>"]),
        (
            chat("u:q", "a:e", "u:r", "a:n"),
            ["e<|im_end|>", "<think>\n\n</think>\n\nn<|im_end|>"],
        ),
        (
            chat("u:q", "a:<think>\nhm\n</think>\n\ne", "u:r", "a:<think>\nho\n</think>\n\nn"),
            ["e<|im_end|>", "<think>\nho\n</think>\n\nn<|im_end|>"],
        ),
        (
            chat("u:q", "a:call", "t:7", "a:seven", "u:r", "a:n"),
            ["call<|im_end|>", "seven<|im_end|>", "<think>\n\n</think>\n\nn<|im_end|>"],
        ),
    ],
)
def test_a_template_that_thinks_before_its_last_answer_only_is_labelled_as_it_prints(
    make_tokenizer: Callable[[str], Any], messages: Chat, answers: list[str]
) -> None:
    tokenizer = make_tokenizer(THINKING)
    assert trained(tokens(messages, tokenizer), tokenizer) == answers
    last = tokens(messages, tokenizer, train_on="last_turn")
    assert trained(last, tokenizer) == answers[-1:]


def test_a_prompt_that_opens_a_thought_does_not_hide_earlier_answers(
    make_tokenizer: Callable[[str], Any],
) -> None:
    opened = THINKING.replace(
        "assistant\\n' }}{%- endif %}", "assistant\\n<think>\\n' }}{%- endif %}"
    )
    assert opened != THINKING
    tokenizer = make_tokenizer(opened)
    assert trained(tokens(chat("u:q", "a:e", "u:r", "a:n"), tokenizer), tokenizer) == [
        "e<|im_end|>",
        "\n</think>\n\nn<|im_end|>",
    ]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_a_way_out(
    make_tokenizer: Callable[[str], Any],
) -> None:
    numbered = UNMARKED.replace("'<|im_start|>' +", "'<|im_start|>' + messages | length | string +")
    tokenizer = make_tokenizer(numbered)
    with pytest.raises(DataError, match=r"turn 2: .*data\.train_on=last_turn"):
        tokens(chat("u:q", "a:x", "u:q", "a:y"), tokenizer)


def test_a_template_that_raises_is_a_data_error(make_tokenizer: Callable[[str], Any]) -> None:
    tokenizer = make_tokenizer("{{ raise_exception('no system here') }}")
    with pytest.raises(DataError, match=r"refuses the conversation \(no system here\)"):
        tokens(chat("s:x", "u:q", "a:x"), tokenizer)


def test_without_a_chat_template_conversations_are_refused_and_raw_text_works(
    make_tokenizer: Callable[[str | None], Any],
) -> None:
    tokenizer = make_tokenizer(None)
    with pytest.raises(DataError, match=r"no chat template.*tokenizer\.chat_template"):
        tokens(chat("u:q", "a:x"), tokenizer)
    assert tokenize_row([], "the", tokenizer, train_on="all_turns", system_prompt="").input_ids


def test_raw_text_trains_all_tokens_but_the_first_and_ends_once(tokenizer: Any) -> None:
    def raw(text: str, **knobs: Any) -> Tokenized:
        return tokenize_row([], text, tokenizer, train_on="all_turns", system_prompt="x", **knobs)

    ids = tokenizer("what the user")["input_ids"]
    eos = tokenizer.eos_token_id
    assert raw("what the user") == Tokenized([*ids, eos], [(1, len(ids) + 1)])
    assert raw("what the user<|endoftext|>").input_ids == [*ids, eos]
    assert raw("what the user", add_eos=False).input_ids == ids


def test_many_rows_at_once_are_the_same_as_one_by_one(tokenizer: Any) -> None:
    rows: list[tuple[Chat, str]] = [(LONG, ""), ([], "the user"), (chat("u:q", "a:x"), "")]
    knobs = {"train_on": "all_turns", "system_prompt": ""}
    one_by_one = [tokenize_row(m, text, tokenizer, **knobs) for m, text in rows]
    assert tokenize_rows(rows, tokenizer, **knobs) == one_by_one


# --- a whole split -------------------------------------------------------------------------------


def split(*rows: tuple[Chat, str]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {"origin": f"a:{n}", "messages": messages, "text": text}
            for n, (messages, text) in enumerate(rows)
        ]
    )


def test_a_split_is_tokenized_in_order_and_cut(unmarked: Any) -> None:
    rows = [(LONG, ""), (chat("u:q", "a:x"), "")]
    config = DataConfig(max_length=20, on_too_long="truncate")
    result = tokenize_dataset(split(*rows), unmarked, config)
    expected = [tokens(messages, unmarked) for messages, _ in rows]
    assert result["origin"][:] == ["a:0", "a:1"]
    assert result["input_ids"][:] == [row.input_ids[:20] for row in expected]
    assert result["labels"][:] == [row.labels[:20] for row in expected]
    assert len(expected[0].input_ids) > 20


def test_a_long_conversation_is_refused_where_rows_are_not_to_be_cut(unmarked: Any) -> None:
    with pytest.raises(DataError, match=r"a:1: longer than data\.max_length=20"):
        tokenize_dataset(
            split((chat("u:q", "a:x"), ""), (LONG, "")), unmarked, DataConfig(max_length=20)
        )


def test_the_row_that_a_template_refuses_is_named(make_tokenizer: Callable[[str], Any]) -> None:
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + UNMARKED
    rows = split((chat("u:q", "a:x"), ""), (LONG, ""))
    with pytest.raises(DataError, match=r"^a:1: the chat template refuses"):
        tokenize_dataset(rows, make_tokenizer(picky), DataConfig())


def test_a_second_call_opens_the_same_file_and_a_change_makes_another(
    unmarked: Any, marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> list[Path]:
        return sorted((home() / "cache" / "tokens").iterdir())

    rows = split((chat("u:q", "a:x"), ""))
    first = tokenize_dataset(rows, unmarked, DataConfig())
    made = files()
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr("ytrainer_core.data.tokenize._tokenize_batch", None)
        assert tokenize_dataset(rows, unmarked, DataConfig())[:] == first[:]
    tokenize_dataset(rows, unmarked, DataConfig(system_prompt="s"))
    tokenize_dataset(rows, marked, DataConfig())
    tokenize_dataset(split((chat("u:q", "a:y"), "")), unmarked, DataConfig())
    assert len(files()) == 4


def test_an_empty_split_stays_empty(unmarked: Any) -> None:
    empty = split((LONG, "")).select([])
    result = tokenize_dataset(empty, unmarked, DataConfig())
    assert len(result) == 0
    assert result.column_names == ["origin", "input_ids", "labels"]


def test_threads_that_share_a_tokenizer_do_not_mix_up_their_answers(
    marked: Any, request: pytest.FixtureRequest
) -> None:
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer"}]
    rows = [([*turns * (1 + number % 4)], "") for number in range(100)]

    def tokenize() -> list[Tokenized]:
        return tokenize_rows(rows, marked, train_on="all_turns", system_prompt="")

    alone = tokenize()
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # they take turns within a template
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(tokenize) for _ in range(20)]
        assert all(task.result() == alone for task in tasks)
