"""Spans of characters among tokens: by the tokens' bytes, and by what the tokenizer tells."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ytrainer_core.data import token_bytes
from ytrainer_core.data.token_bytes import encode_spans, flattened

TEXTS = ["the cat sat on the mat", "Grüße an die Katze 🐈 von 猫", "tab\there\n\nand lines", "a  b"]


def byte_level(normalizer: Any = None, *, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS[:1], trainer)
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def decoded(tokenizer: Any, ids: list[int], span: tuple[int, int]) -> str:
    return str(tokenizer.decode(ids[slice(*span)], clean_up_tokenization_spaces=False))


def test_a_span_is_the_tokens_that_hold_its_characters() -> None:
    tokenizer = byte_level()
    text = "the cat<|end|>sat 🐈<|end|>"
    begin, end = text.index("sat"), len(text)

    ((ids, spans),) = encode_spans([text], [[(begin, end)]], tokenizer)

    assert [decoded(tokenizer, ids, span) for span in spans] == ["sat 🐈<|end|>"]


def test_every_byte_of_a_span_s_last_character_belongs_to_it() -> None:
    tokenizer = byte_level()
    text = "say 猫"
    ((ids, spans),) = encode_spans([text], [[(4, 5)]], tokenizer)
    assert len(tokenizer("猫")["input_ids"]) == 3  # so that it could be cut
    assert decoded(tokenizer, ids, spans[0]).strip() == "猫"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "tokenizer", [byte_level(), byte_level(normalizers.NFC()), byte_level(prefix_space=True)]
)
def test_bytes_say_what_the_tokenizer_says(tokenizer: Any, text: str) -> None:
    rng = random.Random(text)
    cuts = sorted(rng.sample(range(len(text) + 1), 4))
    spans = [(cuts[0], cuts[1]), (cuts[2], cuts[3])]
    ascii_only = [(a, b) for a, b in spans if a < b and text[a:b].isascii()]

    found = encode_spans([text, text], [ascii_only, []], tokenizer)

    asked = token_bytes._by_offsets([text, text], [ascii_only, []], tokenizer)
    assert found == asked


def test_text_that_is_normalized_is_left_to_the_tokenizer() -> None:
    tokenizer = byte_level(normalizers.NFC())
    text = "u\u0308ber the cat"  # two characters become one, so that bytes would be off by one
    begin = text.index("the")

    ((ids, spans),) = encode_spans([text], [[(begin, begin + 3)]], tokenizer)

    assert decoded(tokenizer, ids, spans[0]).strip() == "the"


def test_a_vocabulary_of_words_is_left_to_the_tokenizer() -> None:
    backend = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert encode_spans(["the cat the"], [[(4, 7)]], tokenizer) == [([0, 1, 0], [(1, 2)])]


def test_padding_and_truncation_of_a_saved_tokenizer_do_not_reach_the_ids() -> None:
    tokenizer = byte_level()
    plain = encode_spans(TEXTS, [[]] * len(TEXTS), tokenizer)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(3)
    assert encode_spans(TEXTS, [[]] * len(TEXTS), tokenizer) == plain


def test_a_token_that_was_added_later_counts() -> None:
    tokenizer = byte_level()
    encode_spans(["the cat"], [[]], tokenizer)
    tokenizer.add_tokens(["<tool>"])
    ((ids, spans),) = encode_spans(["<tool>the cat"], [[(6, 9)]], tokenizer)
    assert decoded(tokenizer, ids, spans[0]) == "the"


def test_empty_spans_and_spans_behind_the_text_have_no_tokens() -> None:
    tokenizer = byte_level()
    assert encode_spans(["the", ""], [[(1, 1), (3, 3)], []], tokenizer)[0][1] == []
    assert encode_spans(["", "the"], [[], [(0, 3)]], tokenizer)[0] == ([], [])


def test_no_text_gives_nothing() -> None:
    assert encode_spans([], [], byte_level()) == []


def test_several_threads_may_ask_one_tokenizer() -> None:
    tokenizer = byte_level()
    texts = [f"the cat {number} sat" for number in range(200)]
    spans = [[(4, 7)] for _ in texts]
    alone = encode_spans(texts, spans, tokenizer)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(encode_spans, texts, spans, tokenizer) for _ in range(20)]
        assert all(task.result() == alone for task in tasks)


def test_lists_are_flattened_in_order() -> None:
    assert flattened([[1, 2], [], [3]]).tolist() == [1, 2, 3]
    assert flattened([]).tolist() == []
