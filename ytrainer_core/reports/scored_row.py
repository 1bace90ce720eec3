"""One suspicious row as the page shows it: in words, in colours, cropped to what stands out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ytrainer_core.reports.answers import Cell, Stretch, crop, finite_mean, level, pieces
from ytrainer_core.reports.findings import (
    Alternatives,
    Finding,
    Piece,
    Said,
    Sentence,
    chance,
    find,
    whole_answer,
)
from ytrainer_core.reports.render import inline, number

LOSS_STEPS = (0.5, 1.2, 3.0, 6.2, 10.0)
"""Nats at which the colour of a token's loss becomes stronger."""

ENTROPY_STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Nats at which the colour of a token's entropy becomes stronger."""

NAMED_SPANS = 3
"""Spans of a row that are told in words, with what the model expected; the first is the worst."""

ALTERNATIVES = 3
"""Expected tokens that are shown for each of them."""


_REACH = 1
"""Pieces beside a span that its worst word may stand on: spans are found on smoothed signals."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One answer token: nll and entropy in nats.

    expected: (text, probability) of what the model would have said, most likely first.
    before: untrained text between the answer token before it and this one, such as the next
    question of a conversation.
    """

    text: str
    nll: float
    entropy: float
    expected: Alternatives = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row; `spans` are suspicious stretches of `tokens` as (start, end), end exclusive.

    spans: the most severe first. scores: method -> score, of every method that was computed.
    """

    origin: str
    score: float
    flagged: bool
    prompt: str
    tokens: Sequence[ScoredToken]
    spans: Sequence[tuple[int, int]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row with what is suspicious in words, its answer, and (method, score, chosen) of each."""

    row: ScoredRow
    sentences: Sequence[Sentence]
    stretches: Sequence[Stretch]
    scores: Sequence[tuple[str, str, bool]]


def shown_row(row: ScoredRow, corpus_mean: float, method: str) -> ShownRow:
    """Find the words for a row. corpus_mean: mean loss of all answer tokens, nats."""
    bounds = pieces([token.text for token in row.tokens])
    shown = [_piece(row.tokens[start:end]) for start, end in bounds]
    spans = [span for span in (_over(bounds, span) for span in row.spans) if span]
    told = whole_answer(finite_mean(token.nll for token in row.tokens), corpus_mean)
    findings = _findings(shown, spans)[: 1 if told else NAMED_SPANS]
    marks = _marks(spans, findings)
    befores = [row.tokens[start].before for start, _ in bounds]
    cells = [
        _cell(piece, before, marks.get(at, ""), _alternatives(findings, at))
        for at, (piece, before) in enumerate(zip(shown, befores, strict=True))
    ]
    return ShownRow(
        row,
        _sentences(told, findings, bool(spans)),
        crop(cells, [finding.word[0] for finding in findings]),
        [(name, number(score), name == method) for name, score in row.scores.items()],
    )


def _findings(shown: Sequence[Piece], spans: Sequence[tuple[int, int]]) -> list[Finding]:
    """The worst word of each span, or of the whole answer where no span holds a surprise."""
    wide = [(max(0, start - _REACH), min(len(shown), end + _REACH)) for start, end in spans]
    found = [find(shown, span) for span in wide if _surprising(shown, span)]
    if shown and not found:
        found = [find(shown, (0, len(shown)))]
    by_word = {finding.word: finding for finding in reversed(found)}
    return list(reversed(by_word.values()))


def _surprising(shown: Sequence[Piece], span: tuple[int, int]) -> bool:
    return any(piece.surprise > 0 for piece in shown[slice(*span)])


def _piece(tokens: Sequence[ScoredToken]) -> Piece:
    token = max(tokens, key=lambda token: math.inf if math.isnan(token.nll) else token.nll)
    text = "".join(token.text for token in tokens)
    return Piece(text, token.nll, token.entropy, token.expected[:ALTERNATIVES], len(tokens))


def _over(bounds: Sequence[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int] | None:
    """A span over tokens as one over pieces; None where it holds none."""
    inside = [i for i, (start, end) in enumerate(bounds) if start < span[1] and end > span[0]]
    return (inside[0], inside[-1] + 1) if inside else None


def _marks(spans: Sequence[tuple[int, int]], findings: Sequence[Finding]) -> dict[int, str]:
    """piece -> CSS classes: spans are underlined, words stand out, the worst word most."""
    marks = {at: "sus" for start, end in spans for at in range(start, end)}
    for rank, finding in reversed([*enumerate(findings)]):
        for at in range(*finding.word):
            marks[at] = "sus pin" if rank else "sus worst"
    return marks


def _alternatives(findings: Sequence[Finding], at: int) -> Sequence[tuple[str, str]]:
    """What stands behind the last piece of a word."""
    for finding in findings:
        if finding.word[1] == at + 1:
            return finding.alternatives
    return ()


def _cell(piece: Piece, before: str, marks: str, alternatives: Sequence[tuple[str, str]]) -> Cell:
    classes = [
        level("l", piece.nll, LOSS_STEPS),
        level("e", piece.entropy, ENTROPY_STEPS),
        marks,
    ]
    tip = f"loss {number(piece.nll, 2)} · entropy {number(piece.entropy, 2)} nats"
    if piece.tokens > 1:
        tip += f" · {piece.tokens} tokens"
    said = [f"“{inline(text)}” {chance(share)}".strip() for text, share in piece.expected]
    if said:
        tip += f" · expected {', '.join(said)}"
    return Cell(piece.text, " ".join(filter(None, classes)), tip, before, alternatives)


def _sentences(told: Sentence, findings: Sequence[Finding], stands_out: bool) -> list[Sentence]:
    """told: of the whole answer, if anything. stands_out: whether any stretch does."""
    if not findings:
        return [[Said("The row has no answer tokens: nothing to judge")]]
    sentences = [finding.sentence for finding in findings]
    if told:
        return [told, *sentences]
    if not stands_out:
        sentences.append([Said("That is its greatest surprise; no stretch stands out")])
    return sentences
