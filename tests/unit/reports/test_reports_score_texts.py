"""The texts of tokens, joined, read as the row does."""

from __future__ import annotations

import pytest

from ytrainer_core.reports import score


def bytes_decoder(pieces):
    """A decoder of byte-level tokens: token i stands for the bytes pieces[i]."""
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


def words_decoder(pieces):
    """A decoder that drops the space that its text begins with, as sentence pieces do."""
    return lambda ids: "".join(pieces[i] for i in ids).removeprefix(" ")


def test_a_character_in_several_tokens_belongs_to_the_first_of_them():
    kanji, face = "答".encode(), "🙂".encode()
    pieces = [b"a ", kanji[:1], kanji[1:2], kanji[2:] + b" b", face[:2], face[2:], b"c"]
    assert score.token_texts(bytes_decoder(pieces), range(7)) == [
        "a ", "答 b", "", "", "🙂", "", "c",
    ]  # fmt: skip


def test_spaces_that_a_decoder_drops_from_single_tokens_stay():
    pieces = ["The", " cat", " sat", "s", " down"]
    texts = score.token_texts(words_decoder(pieces), range(5))
    assert texts == ["The", " cat", " sat", "s", " down"]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\xff", b"ok"],
        [b"a", b"\xe7"],
        [b"\x80"] * 9 + [b"b"],
        ["\ufffd".encode(), b"x", b"y", b"z"],
        [],
    ],
)
def test_bytes_that_are_no_text_stay_visible_and_shift_nothing(pieces):
    decode, ids = bytes_decoder(pieces), range(len(pieces))
    texts = score.token_texts(decode, ids)
    assert len(texts) == len(pieces)
    assert "".join(texts) == decode(ids)


def test_bytes_that_are_no_text_hold_up_what_follows_for_four_tokens_at_most():
    kanji = "答".encode()
    pieces = [kanji[:1], kanji[1:], *[b"\x80"] * 5, b"b", b"c", b"\xe7"]
    texts = score.token_texts(bytes_decoder(pieces), range(10))
    assert texts == ["答", "", "\ufffd" * 4, "", "", "", "\ufffdb", "", "c", "\ufffd"]
