"""Texts that share most of their word sequences are found without comparing every pair.

A text is the set of its shingles, runs of SHINGLE_WORDS words; the similarity of two texts is
Jaccard's, common shingles over all. Least hashes of a set (MinHash), joined into bands, are equal
for two texts the more probably the more similar they are; only rows that share a band are
compared, and what decides is the exact similarity of their shingles.

Sources: Broder, On the resemblance and containment of documents, 1997 (shingles, least hashes);
Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4 (bands); Dietzfelbinger et al., A
reliable randomized algorithm for the closest-pair problem, 1997 (ax + b over the integers of a
machine word, in place of permutations).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

SHINGLE_WORDS = 5
"""Words of a shingle; characters in scripts that are written without spaces."""

MIN_WORDS = 40
"""Shorter texts have no bands and are never near duplicates: in them one word makes the task."""

MAX_WORDS = 8192
"""Words of a text that are looked at, from its beginning."""

BANDS, BAND_HASHES = 8, 5
"""Bands of a text, and least hashes that are joined in each. Two texts of similarity s share a band
with probability 1 - (1 - s^5)^8: 0.999 at 0.9, 0.99 at 0.85, 0.77 at 0.7, 0.22 at 0.5."""

MAX_PER_BAND = 4
"""Rows that stand for all that have a band's value: the latest of those that were kept."""

MAX_COMPARISONS = 8
"""Rows that one row is compared with at most: those it shares most bands with."""

_CHARACTERS = 8 * MAX_WORDS
"""Where a text is cut before its words are told apart, so that a book costs no more than needed."""

_CACHED_TEXTS = 1024
"""Shingles of so many texts are kept; at MAX_WORDS 64 KiB each, mostly 1 KiB."""

NO_BAND = 0
"""Band of a text that is compared with none."""

_NONE = -1

# Thai, Lao, Burmese, Khmer, kana, Han.
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+")
# What ASCII has of it, byte by byte: lower case, and a blank for what is no part of a word.
_ASCII = bytes(
    b if b >= 128 else ord(chr(b).lower()) if chr(b).isalnum() or chr(b) == "_" else ord(" ")
    for b in range(256)
)


def _drawn(what: str, count: int) -> Words:
    """[count] odd numbers without a pattern. Of a hash and not of a generator: bands are kept in
    files, and a generator's numbers may change from one release to the next."""
    drawn = hashlib.shake_256(what.encode()).digest(8 * count)
    return np.frombuffer(drawn, "<u8").astype(np.uint64) | np.uint64(1)


_WORD_FACTORS = _drawn("words of a shingle", SHINGLE_WORDS)
_MIX = _drawn("shingle", 1)[0]
_FACTORS = _drawn("factors", BANDS * BAND_HASHES)[:, None]
_SUMMANDS = _drawn("summands", BANDS * BAND_HASHES)[:, None]
_BAND_FACTORS = _drawn("hashes of a band", BAND_HASHES)
_FIRST_SHIFT, _SECOND_SHIFT = np.uint64(32), np.uint64(29)


# --- one text ------------------------------------------------------------------------------------


def shingles(text: str) -> Words:
    """[shingles] hashes of 64 bits in the order of the text; empty under MIN_WORDS words.

    Case, punctuation and white space make no difference.
    """
    words = _words(text)
    count = len(words) - SHINGLE_WORDS + 1
    if len(words) < MIN_WORDS:
        return np.empty(0, np.uint64)
    hashes = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
    joined: Words = hashes[:count] * _WORD_FACTORS[0]
    for i in range(1, SHINGLE_WORDS):
        joined += hashes[i : i + count] * _WORD_FACTORS[i]
    # Sums of products have a pattern that ax + b would keep; this breaks it.
    joined ^= joined >> _FIRST_SHIFT
    joined *= _MIX
    joined ^= joined >> _SECOND_SHIFT
    return joined


def _words(text: str) -> Sequence[bytes]:
    written = text[:_CHARACTERS].encode("utf-8", "replace").translate(_ASCII)
    pieces = written.split(None, MAX_WORDS)[:MAX_WORDS]
    if written.isascii():
        return pieces
    # Only pieces with a letter beyond ASCII need the slow way.
    words: list[bytes] = []
    for piece in pieces:
        if piece.isascii():
            words.append(piece)
        else:
            words += [word.encode() for word in _WORD.findall(piece.decode().lower())]
    return words[:MAX_WORDS]


def bands_of(text: str, salt: int = 0) -> Words:
    """[BANDS] numbers by which similar texts are found; 0 where the text is too short.

    salt: texts with different ones share no band.
    """
    found = shingles(text)
    if not found.size:
        return np.zeros(BANDS, np.uint64)
    hashed = found * _FACTORS  # [hashes, shingles]
    hashed += _SUMMANDS
    least = hashed.min(axis=1).reshape(BANDS, BAND_HASHES)
    bands = (least * _BAND_FACTORS).sum(axis=1, dtype=np.uint64)
    # The lowest bit is given away, so that no band is NO_BAND.
    marked: Words = (bands ^ np.uint64(salt << 1)) | np.uint64(1)
    return marked


def _set(found: Words) -> Words:
    """Sorted, each once: np.unique, a quarter of the time for so few."""
    ranked = np.sort(found)
    kept = np.ones(len(ranked), bool)
    kept[1:] = ranked[1:] != ranked[:-1]
    return ranked[kept]


def similarity(one: Words, other: Words) -> float:
    """Jaccard's, 0 to 1, of two sets of shingles: sorted, each once."""
    few, many = (one, other) if len(one) < len(other) else (other, one)
    if not few.size:
        return 0.0
    at = many.searchsorted(few)
    at[at == len(many)] = 0
    common = int(np.count_nonzero(many[at] == few))
    return common / (len(one) + len(other) - common)


# --- many texts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """Rows that are near another: rows [found] ascending, others [found], similarities [found]."""

    rows: Numbers
    others: Numbers
    similarities: npt.NDArray[np.float64]


def find_near(
    bands: Iterable[Words],
    rows: int,
    text_of: Callable[[int], str],
    least: float,
    *,
    fixed: int = 0,
) -> Near:
    """Rows whose similarity to an earlier row, itself not found, is at least `least`.

    bands: BANDS arrays [rows]. text_of: the text of a row; it is called in ascending order for the
    rows that share a band, and again for some of those they are compared with.
    fixed: so many rows at the beginning are only compared with, and the others with them alone.

    Time grows with the rows: of all that have one value of a band only the latest MAX_PER_BAND that
    were kept are candidates, and of all candidates MAX_COMPARISONS are compared. Where thousands of
    rows share a long beginning and differ then, a near duplicate of a row far before may therefore
    be missed. No row is found wrongly, but for equal hashes of different words.
    """
    buckets, count = _buckets(bands, rows, fixed)
    latest = np.full((count, MAX_PER_BAND), _NONE, np.int64)
    kept = np.zeros(count, np.int64)

    @lru_cache(maxsize=_CACHED_TEXTS)
    def set_of(row: int) -> Words:
        return _set(shingles(text_of(row)))

    found: list[tuple[int, int, float]] = []
    for row in np.flatnonzero((buckets != _NONE).any(axis=0)).tolist():
        own = buckets[:, row]
        own = own[own != _NONE]
        if row >= fixed:
            near = _nearest(row, latest[own], set_of, least)
            if near:
                found.append((row, *near))
            if near or fixed:
                continue
        latest[own, kept[own] % MAX_PER_BAND] = row
        kept[own] += 1
    return Near(
        np.array([row for row, _, _ in found], np.int64),
        np.array([other for _, other, _ in found], np.int64),
        np.array([similar for _, _, similar in found], np.float64),
    )


def _nearest(
    row: int, candidates: Numbers, set_of: Callable[[int], Words], least: float
) -> tuple[int, float] | None:
    """The first candidate that is similar enough, most common bands first, and its similarity."""
    votes = Counter(candidates.ravel().tolist())
    del votes[_NONE]
    if not votes:
        return None
    own = set_of(row)
    for other, _ in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))[:MAX_COMPARISONS]:
        similar = similarity(own, set_of(other))
        if similar >= least:
            return other, similar
    return None


def _buckets(bands: Iterable[Words], rows: int, fixed: int) -> tuple[npt.NDArray[np.int32], int]:
    """([BANDS, rows] the bucket of each row by each band, number of buckets).

    A bucket is a value that several rows have; with `fixed`, rows of both sides.
    """
    buckets = np.full((BANDS, rows), _NONE, np.int32)
    count = 0
    for band, values in enumerate(bands if rows else ()):
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        begins = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
        sizes = np.diff(begins, append=rows)
        shared = (sizes > 1) & (ranked[begins] != NO_BAND)
        if fixed:  # the sort is stable, so a group begins with its lowest row
            shared &= (order[begins] < fixed) & (order[begins + sizes - 1] >= fixed)
        names = np.where(shared, count + np.cumsum(shared) - 1, _NONE)
        buckets[band, order] = np.repeat(names, sizes)
        count += int(np.count_nonzero(shared))
    return buckets, count
