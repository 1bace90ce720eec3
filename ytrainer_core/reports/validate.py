"""The report of the validate stage: what was read, what was dropped and why, what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ytrainer_core.reports.figures import Chart, distribution
from ytrainer_core.reports.render import percent, whole, write_page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Lengths = Sequence[int] | NDArray[Any]

_MOST_BARS = 12
"""Bars of one kind that are drawn; the rest are gathered in one."""

_SEVERITIES = ("error", "warning", "off")


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One file that was read: hex sha256 of its bytes, rows read from it.

    rate: the share of its rows that was asked for (2.0: each twice); taken: rows of it, after
    checks and sampling, in the corpus, 0 where they were not counted.
    """

    path: str
    sha256: str
    rows: int
    rate: float = 1.0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that broke a rule, as it stood in the file; of a whole corpus raw is empty."""

    origin: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One validation rule and the rows that broke it; `samples` are some of the `count`.

    severity: error, warning or off.
    """

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
    """counts: read, train, validation, general, quarantined; lengths: [rows], tokens per row.

    shapes, kinds, languages, labels: name -> rows, each empty where it was not counted. A language
    is an ISO 639 code, or empty for rows whose language could not be told.
    """

    title: str
    sources: Sequence[SourceLine]
    counts: Mapping[str, int]
    rules: Sequence[RuleLine]
    shapes: Mapping[str, int]
    lengths: Lengths
    max_length: int
    previews: Sequence[Preview]
    kinds: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


def write_validate_report(path: Path, data: ValidateReport) -> None:
    """Write the report atomically as one HTML file."""
    import numpy as np

    lengths = np.asarray(data.lengths)
    broken = sorted((rule for rule in data.rules if rule.count), key=_worst_first)
    write_page(
        path,
        "validate.html.j2",
        data=data,
        broken=broken,
        warned=any(rule.severity == "warning" for rule in broken),
        kept=[rule for rule in data.rules if not rule.count and rule.severity != "off"],
        off=[rule for rule in data.rules if not rule.count and rule.severity == "off"],
        facts=[
            (title, _bars(counts))
            for title, counts in (
                ("Row shapes", data.shapes),
                ("Kinds of rows", data.kinds),
                ("Languages", {name or "uncertain": n for name, n in dict(data.languages).items()}),
                ("KTO labels", data.labels),
            )
            if counts
        ],
        sampled=any(source.taken or source.rate != 1 for source in data.sources),
        rows=lengths.size,
        length_facts=_length_facts(lengths),
        too_long=int((lengths > data.max_length).sum()),
        length_chart=_length_chart(lengths, data.max_length),
    )


def _worst_first(rule: RuleLine) -> tuple[int, int]:
    known = rule.severity in _SEVERITIES
    return _SEVERITIES.index(rule.severity) if known else len(_SEVERITIES), -rule.count


def _bars(counts: Mapping[str, int]) -> list[tuple[str, float, str, str]]:
    """(name, share, count with share, "") by count, the smallest gathered in one bar."""
    total = sum(counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) > _MOST_BARS:
        rest = ordered[_MOST_BARS - 1 :]
        gathered = (f"{len(rest)} others", sum(count for _, count in rest))
        ordered = [*ordered[: _MOST_BARS - 1], gathered]
    return [
        (name, count / total, f"{whole(count)} ({percent(count / total)})", "")
        for name, count in ordered
    ]


def _length_facts(lengths: NDArray[Any]) -> dict[str, int]:
    import numpy as np

    if not lengths.size:
        return {}
    return {
        "median": int(np.median(lengths)),
        "95th percentile": int(np.percentile(lengths, 95)),
        "99th percentile": int(np.percentile(lengths, 99)),
        "longest": int(lengths.max()),
        "tokens in all": int(lengths.sum(dtype=np.int64)),
    }


def _length_chart(lengths: NDArray[Any], max_length: int) -> Chart:
    return distribution(
        "Length of rows against the limit",
        cast("Sequence[float]", lengths),  # drawn as an array either way
        x_label="tokens per row, the chat template included",
        mark=max_length,
        mark_label=f"max_length {max_length:,}",
    )
