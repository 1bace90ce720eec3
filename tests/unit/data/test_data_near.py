"""Near duplicates: similarities computed by hand, nothing found wrongly, no quadratic time."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from ytrainer_core.data import near
from ytrainer_core.data.near import (
    BANDS,
    MAX_COMPARISONS,
    MAX_WORDS,
    MIN_WORDS,
    Near,
    bands_of,
    find_near,
    shingles,
    similarity,
)


def words(count: int, seed: int = 0) -> list[str]:
    """Words that are all different."""
    return [f"w{number}" for number in random.Random(seed).sample(range(10**6), count)]


def changed(text: list[str], *places: int) -> list[str]:
    return [f"new{i}" if i in places else word for i, word in enumerate(text)]


def sets(text: str) -> set[int]:
    return set(shingles(text).tolist())


def similar(one: str, other: str) -> float:
    return similarity(np.unique(shingles(one)), np.unique(shingles(other)))


def found(texts: list[str], least: float, fixed: int = 0) -> Near:
    bands = np.array([bands_of(text) for text in texts]).reshape(-1, BANDS)
    return find_near(iter(bands.T), len(texts), texts.__getitem__, least, fixed=fixed)


def pairs(result: Near) -> dict[int, int]:
    return dict(zip(result.rows.tolist(), result.others.tolist(), strict=True))


# --- one text ------------------------------------------------------------------------------------


def test_shingles_are_the_runs_of_five_words() -> None:
    text = words(44)
    assert len(sets(" ".join(text))) == 40
    assert len(sets(" ".join(text[:5] * 10))) == 5  # runs that come again are one


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ((), 1.0),
        ((43,), 39 / 41),  # the last word stands in one run of 40
        ((20,), 35 / 45),  # a word in the middle in five
        ((0, 1), 38 / 42),
        (tuple(range(44)), 0.0),
    ],
)
def test_similarity_is_the_common_share_of_all_shingles(
    places: tuple[int, ...], expected: float
) -> None:
    text = words(44)
    assert similar(" ".join(text), " ".join(changed(text, *places))) == expected


def test_a_text_and_its_beginning_are_as_similar_as_their_lengths() -> None:
    text = words(104)
    assert similar(" ".join(text), " ".join(text[:54])) == 50 / 100
    assert similar(" ".join(text), "too short") == 0.0


def test_case_punctuation_and_white_space_make_no_difference() -> None:
    text = words(50)
    plain = " ".join(text)
    written = f"«{text[0].upper()}», " + " -- ".join(text[1:]) + "!\n"
    assert similar(plain, written) == 1.0
    assert similar(plain, ", ".join(text)) == 1.0
    assert bands_of(plain).tolist() == bands_of(written).tolist()


def test_a_text_with_one_letter_beyond_ascii_has_the_same_other_words() -> None:
    text = "It's snake_case, 3.5 times A-B. " * 3 + " ".join(words(40))
    assert shingles(f"{text} é")[:-1].tolist() == shingles(text).tolist()


@pytest.mark.parametrize("first", [0x4E00, 0x3042, 0x0E01, 0x1000, 0x1780])
def test_in_scripts_without_spaces_every_character_is_a_word(first: int) -> None:
    text = "".join(chr(first + i) for i in range(44))
    assert similar(text, text[:-1] + "x") == 39 / 41
    assert sets(f"abc{text}") == sets(f"abc {' '.join(text)}")


def test_scripts_with_spaces_are_cut_at_them() -> None:
    text = ["слово" + "абвгдежзик"[i // 10] + "абвгдежзик"[i % 10] for i in range(44)]
    assert len(sets(" ".join(text))) == 40


def test_a_short_text_has_no_bands() -> None:
    text = words(MIN_WORDS)
    assert bands_of(" ".join(text[1:])).tolist() == [0] * BANDS
    assert all(bands_of(" ".join(text)))
    assert bands_of("").tolist() == [0] * BANDS


def test_words_beyond_the_greatest_number_are_not_looked_at() -> None:
    text = [f"{n:05}" for n in range(MAX_WORDS)]
    book = " ".join([*text, "and", "more"])
    assert shingles(book).tolist() == shingles(" ".join(text)).tolist()
    assert len(shingles(f"é {book}")) == MAX_WORDS - 4
    assert len(shingles(book * 50)) == MAX_WORDS - 4


def test_texts_that_no_encoding_can_write_have_shingles_too() -> None:
    assert len(shingles("\ud800 ".join(words(44)))) == 40


def test_different_salts_share_no_band() -> None:
    text = " ".join(words(60))
    assert not set(bands_of(text, salt=1).tolist()) & set(bands_of(text, salt=2).tolist())
    assert bands_of(text, salt=1).tolist() == bands_of(text, salt=1).tolist()


# --- many texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "places", "expected"),
    [
        (120, (60,), 111 / 121),  # 0.917
        (105, (50,), 96 / 106),  # 0.906
        (140, (40, 90), 126 / 146),  # 0.863
    ],
)
def test_of_similar_texts_95_in_100_are_found_and_of_others_none(
    count: int, places: tuple[int, ...], expected: float
) -> None:
    """For every text an edited one, and one below the bound of which many share a band."""
    some = 200
    texts = [words(count, seed) for seed in range(some)]
    edited = [changed(text, *places) for text in texts]
    below = [changed(text, *places, 10, 20, 30, 70, 80) for text in texts]
    everything = [" ".join(text) for text in (*texts, *edited, *below)]
    result = found(everything, least=expected)
    assert len(result.rows) >= 0.95 * some
    assert pairs(result) == {row: row - some for row in result.rows.tolist()}
    assert set(result.rows.tolist()) <= set(range(some, 2 * some))
    assert result.similarities.tolist() == [expected] * len(result.rows)


def test_the_bound_itself_is_similar_enough_and_a_little_more_is_not() -> None:
    text = words(44)
    texts = [" ".join(text), " ".join(changed(text, 43))]
    assert pairs(found(texts, least=39 / 41)) == {1: 0}
    assert pairs(found(texts, least=39.01 / 41)) == {}


def test_a_row_is_compared_with_rows_that_are_kept_and_not_with_found_ones() -> None:
    """The second is like the first (97/103), the third like the second, but not like the first."""
    first = words(104)
    second = changed(first, 101, 102, 103)
    third = changed(second, 0, 1, 2)
    texts = [" ".join(text) for text in (first, second, third)]
    assert similar(texts[0], texts[2]) == 94 / 106
    assert pairs(found(texts, least=0.9)) == {1: 0}
    assert pairs(found(texts[1:], least=0.9)) == {1: 0}


def test_fixed_rows_are_only_compared_with_and_the_others_with_them_alone() -> None:
    held_out, own = words(60, 1), words(60, 2)
    texts = [held_out, changed(held_out, 59), own, changed(own, 59), changed(held_out, 0)]
    result = found([" ".join(text) for text in texts], least=0.9, fixed=2)
    assert result.rows.tolist() == [4]
    assert result.others[0] in (0, 1)


def test_without_rows_or_without_long_ones_nothing_is_found() -> None:
    assert pairs(found([], 0.5)) == {}
    assert pairs(found(["short", "short"], 0.5)) == {}
    assert pairs(found(["short", "short"], 0.5, fixed=1)) == {}


def test_thousands_of_rows_with_a_common_beginning_are_not_all_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """56 common runs of 71: similarity 56/86, so most rows share a band with most others."""
    rows = 1500
    texts = [" ".join(words(60, 0) + words(15, n + 1)) for n in range(rows)]
    texts.append(" ".join([*texts[-1].split()[:-1], "other"]))
    compared = 0

    def counted(one: near.Words, other: near.Words) -> float:
        nonlocal compared
        compared += 1
        return similarity(one, other)

    monkeypatch.setattr(near, "similarity", counted)
    assert pairs(found(texts, least=0.9)) == {rows: rows - 1}
    assert rows / 2 < compared <= (rows + 1) * MAX_COMPARISONS


def test_bands_are_the_same_in_every_process() -> None:
    text = " ".join(words(60))
    program = f"from ytrainer_core.data.near import bands_of\nprint(bands_of({text!r}).tolist())"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(bands_of(text).tolist())
