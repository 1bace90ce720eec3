"""What is kept of a row to compare it by: numbers of a fixed size, so millions fit into memory.

A fingerprint is made of one row alone, in whatever process reads it, and is the same in every
process and on every machine. A million rows are 104 MB.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ytrainer_core.data.formats import Row, Turn
from ytrainer_core.data.near import BANDS, Numbers, Words, bands_of
from ytrainer_core.data.verdicts import Verdicts

NEVER, BY_PROMPT, BAD, GOOD = range(4)
"""How a row can contradict another: not at all; by another answer to its prompt; as an answer that
is called bad, or good, where the other calls the same answer the opposite."""

DIGEST_BYTES = 16

# Where that stands: in the highest two bits of a whole, of its last byte or its second word.
_BYTE_SHIFT, _WORD_SHIFT = 6, 62


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What a row is compared by.

    whole: 16 bytes, equal for equal rows. prompt: 16 bytes, equal where the last answer answers
    the same; zeros where nothing is asked. bands: [BANDS], zeros where no row is near it.
    """

    whole: bytes
    prompt: bytes
    bands: Words

    @classmethod
    def nothing(cls) -> Self:
        """Of a row that is not compared: zeros."""
        return cls(bytes(DIGEST_BYTES), bytes(DIGEST_BYTES), np.zeros(BANDS, np.uint64))


def fingerprint(row: Row, *, near: bool) -> Fingerprint:
    """What a row is compared by; white space at the ends of its texts makes no difference.

    near: with bands, which are most of the work. Rows of different kinds, and answers called good
    and bad, share no bands: what they have in common they have on purpose.
    """
    kind, turns = row.kind, row.turns
    last = next(
        (i for i in reversed(range(len(turns))) if turns[i].role == "assistant"), len(turns)
    )
    digest = hashlib.blake2b(_joined(turns[:last]), digest_size=DIGEST_BYTES)
    prompt = digest.digest() if last else bytes(DIGEST_BYTES)
    digest.update(_joined(turns[last:] if turns else (Turn("text", row.text),)))
    if row.rejected:
        digest.update(b"rejected" + _joined(row.rejected))
    contradicts = NEVER
    if kind == "kto":
        digest.update(b"label")
        contradicts = GOOD if row.label else BAD
    elif row.label is not None:
        digest.update(f"label:{row.label}".encode())
    elif kind == "conversation" and 0 < last < len(turns):
        contradicts = BY_PROMPT
    if near:
        bands = bands_of(near_text(row), salt=zlib.crc32(f"{kind}:{row.label}".encode()))
    else:
        bands = np.zeros(BANDS, np.uint64)
    return Fingerprint(_marked(digest.digest(), contradicts), prompt, bands)


def near_text(row: Row) -> str:
    """The text by which a row is near another: all that is said in it but by the system.

    A long system turn, or the tools that it offers, is often the same in every row of a corpus.
    """
    said = (turn.content for turn in (*row.turns, *row.rejected) if turn.role != "system")
    return "\n".join(said) if row.turns else row.text


def _joined(turns: Sequence[Turn]) -> bytes:
    # Lengths keep two neighbours apart: ('a', 'bc') is not ('ab', 'c').
    parts = ((turn.role, turn.content.strip()) for turn in turns)
    joined = "".join(f"{role}:{len(said)}:{said}" for role, said in parts)
    return joined.encode("utf-8", "surrogatepass")


def _marked(digest: bytes, contradicts: int) -> bytes:
    last = digest[-1] & (1 << _BYTE_SHIFT) - 1 | contradicts << _BYTE_SHIFT
    return digest[:-1] + bytes([last])


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """The fingerprints of rows.

    positions: [rows], ascending, the numbers that the caller knows rows by. wholes, prompts:
    [rows, 2], 16 bytes as two words. bands: [rows, BANDS].
    """

    positions: Numbers
    wholes: Words
    prompts: Words
    bands: Words

    @classmethod
    def build(cls, positions: Sequence[int], fingerprints: Sequence[Fingerprint]) -> Self:
        """The index of rows whose fingerprints are at hand."""
        wholes, prompts = (
            np.frombuffer(b"".join(digests), "<u8").astype(np.uint64).reshape(-1, 2)
            for digests in ([f.whole for f in fingerprints], [f.prompt for f in fingerprints])
        )
        bands = np.array([f.bands for f in fingerprints], np.uint64).reshape(-1, BANDS)
        return cls(np.array(positions, np.int64), wholes, prompts, bands)

    def __len__(self) -> int:
        return len(self.positions)

    def without(self, verdicts: Verdicts) -> Index:
        """The rows that have no verdict."""
        if not len(verdicts):
            return self
        kept = np.isin(self.positions, verdicts.positions, invert=True)
        return Index(self.positions[kept], self.wholes[kept], self.prompts[kept], self.bands[kept])

    def contradicts(self) -> Words:
        """[rows]: NEVER, BY_PROMPT, BAD or GOOD."""
        return self.wholes[:, 1] >> np.uint64(_WORD_SHIFT)

    def answers(self) -> Words:
        """[rows, 2]: the wholes without labels, equal for an answer called good and bad."""
        answers = self.wholes.copy()
        answers[:, 1] &= np.uint64((1 << _WORD_SHIFT) - 1)
        return answers
