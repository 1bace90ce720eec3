"""What a score report says of a row in words."""

from __future__ import annotations

import math

import pytest

from ytrainer_core.reports.findings import Piece, chance, find, whole_answer

NAN = math.nan


def row(text: str, at: int, *expected: tuple[str, float], nll: float = 8.0) -> list[Piece]:
    """Pieces of a text cut at "~"; the one at `at` is a surprise."""
    texts = text.split("~")
    return [
        Piece(t, nll if i == at else 0.1, 0.2, expected if i == at else ())
        for i, t in enumerate(texts)
    ]


def said(pieces: list[Piece], *span: int) -> str:
    finding = find(pieces, (span[0], span[1]) if span else (0, len(pieces)))
    return "".join(part.text for part in finding.sentence)


def test_a_wrong_number_is_named_as_a_whole_though_one_digit_is_wrong():
    pieces = row(" = ~2~7~ clips", 2, ("4", 0.91), ("5", 0.03))
    assert said(pieces) == "“27” where the model expected “24” (91 %)"
    finding = find(pieces, (0, 4))
    assert finding.word == (1, 3)
    assert finding.alternatives == [("“24”", "91 %"), ("“25”", "3 %")]
    assert [part.kind for part in finding.sentence] == ["was", "", "should", ""]


@pytest.mark.parametrize(
    "text, at, expected, sentence",
    [
        ("1~2~7~5", 1, "3", "“1275” where the model expected “13…” (50 %)"),
        ("5~7", 0, "2", "“57” where the model expected “2…” (50 %)"),
        ("2~7", 1, " clips", "“27” where the model expected “2 clips” (50 %)"),
        ("2~7", 0, ".", "“27” where the model expected “.” (50 %)"),
        (" Jo~anna~ has", 0, " Mary", "“Joanna” where the model expected “Mary” (50 %)"),
        ("Jo~ann~a", 1, "seph", "“Joanna” where the model expected “Joseph…” (50 %)"),
        ("has ~5~ clip~s", 2, "0", "“5 clips” where the model expected “50” (50 %)"),
        ("has ~5~ clips", 2, " dogs", "“clips” where the model expected “dogs” (50 %)"),
        ("我~有~三~个", 2, "两", "“三” where the model expected “两” (50 %)"),
        ("كتب~ الولد", 1, " البنت", "“الولد” where the model expected “البنت” (50 %)"),
    ],
)
def test_the_expected_text_stands_in_the_same_word(text, at, expected, sentence):
    assert said(row(text, at, (expected, 0.5))) == sentence


def test_a_run_of_very_many_pieces_is_no_word():
    pieces = row("~".join("x" * 9), 4, ("y", 0.5))
    assert said(pieces) == "“x” where the model expected “y” (50 %)"


def test_white_space_is_named_or_marked():
    assert (
        said(row("a.~\n", 1, (" ", 0.5))) == "A line break where the model expected a space (50 %)"
    )
    assert (
        said(row("a.~\n\n", 1, (" So", 0.5)))
        == "An empty line where the model expected “So” (50 %)"
    )
    assert said(row("a~ \n", 1, ("\t", 0.5))) == "“␣↵” where the model expected a tab (50 %)"
    assert said(row("= ~ 27", 1, ("27", 0.5))) == "“␣27” where the model expected “27” (50 %)"


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<eos>"]
)
def test_the_end_of_an_answer_is_called_so(end):
    assert said(row(f"He~{end}", 1, (" ran", 0.4))) == (
        "The answer ends where the model expected “ran” (40 %)"
    )
    assert said(row("He.~ So", 1, (end, 0.6))) == (
        "“So” where the model expected the answer to end (60 %)"
    )
    assert find(row("1~2", 1, (end, 0.6)), (0, 2)).alternatives == [("the end", "60 %")]


def test_without_knowing_what_was_expected_the_numbers_are_told():
    assert said(row("a~ b", 1, nll=8.06)) == (
        "“b” is a surprise: loss 8.1 nats where the model's entropy is 0.2"
    )
    assert said(row("a~ b", 1, (" b", 0.3))).startswith("“b” is a surprise")
    assert said(row("a~ b", 1, (" c", NAN))) == "“b” where the model expected “c”"


def test_half_a_character_is_called_so():
    assert said(row("a~ b", 1, ("\ufffd", 0.3))) == (
        "“b” where the model expected part of another character (30 %)"
    )


def test_the_word_is_that_of_greatest_loss_beyond_entropy_inside_the_span():
    pieces = [Piece("a ", 9.0, 0.1), Piece("b ", 6.0, 5.0), Piece("c ", 5.0, 0.5)]
    assert said(pieces).startswith("“a”")
    assert said(pieces, 1, 3).startswith("“c”")


def test_what_is_not_a_number_is_named_only_where_there_is_nothing_else():
    pieces = [Piece("a ", NAN, NAN), Piece("b ", 1.0, 0.5), Piece("c ", math.inf, 1.0)]
    assert said(pieces, 0, 2).startswith("“b”")
    assert said(pieces) == "“c” is a surprise: loss ∞ nats where the model's entropy is 1.0"
    assert said(pieces, 0, 1).startswith("“a” is a surprise: loss NaN")


def test_an_answer_of_twice_the_usual_loss_is_unlikely_as_a_whole():
    (part,) = whole_answer(4.0, 2.0)
    assert part.text == "The whole answer is unlikely: 4.00 nats per token, 2.00 in the corpus"
    assert not whole_answer(3.99, 2.0)
    assert not whole_answer(NAN, 2.0)
    assert not whole_answer(2.0, NAN)


@pytest.mark.parametrize(
    "share, told",
    [(0.914, "91 %"), (0.0049, "< 1 %"), (0.9951, "> 99 %"), (1.0, "100 %"), (NAN, "")],
)
def test_chances_never_read_as_certain_or_impossible_by_rounding(share, told):
    assert chance(share) == told
