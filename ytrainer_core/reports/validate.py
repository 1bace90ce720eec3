"""The report of the validate stage: what was read, what was dropped and why, what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.reports.figures import distribution
from ytrainer_core.reports.render import percent, whole, write_page


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One file that was read: hex sha256 of its bytes, rows read from it."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that broke a rule, as it stood in the file."""

    origin: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One validation rule and the rows that broke it; `samples` are some of the `count`."""

    name: str
    severity: str
    description: str
    count: int
    samples: Sequence[Sample] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """One tokenized row, decoded: (text, trained?) in order."""

    origin: str
    segments: Sequence[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class ValidateReport:
    """counts: read, train, validation, general, quarantined; lengths: tokens per row."""

    title: str
    sources: Sequence[SourceLine]
    counts: Mapping[str, int]
    rules: Sequence[RuleLine]
    shapes: Mapping[str, int]
    lengths: Sequence[int]
    max_length: int
    previews: Sequence[Preview]


def write_validate_report(path: Path, data: ValidateReport) -> None:
    """Write the report atomically as one HTML file."""
    import numpy as np

    lengths = np.asarray(data.lengths)
    length_facts = {}
    if lengths.size:
        length_facts = {
            "median": int(np.median(lengths)),
            "95th percentile": int(np.percentile(lengths, 95)),
            "longest": int(lengths.max()),
            "tokens in all": int(lengths.sum()),
        }
    rows = sum(data.shapes.values()) or 1
    write_page(
        path,
        "validate.html.j2",
        data=data,
        broken=sorted((r for r in data.rules if r.count), key=lambda r: -r.count),
        kept=[r for r in data.rules if not r.count],
        shapes=[
            (name, count / rows, f"{whole(count)} ({percent(count / rows)})", "")
            for name, count in data.shapes.items()
        ],
        length_facts=length_facts,
        too_long=int((lengths > data.max_length).sum()),
        length_chart=distribution(
            "Length of rows against the limit",
            data.lengths,
            x_label="tokens per row, the chat template included",
            mark=data.max_length,
            mark_label=f"max_length {data.max_length:,}",
        ),
    )
