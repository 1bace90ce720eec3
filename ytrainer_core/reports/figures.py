"""The charts of the reports: distributions, token losses under a weight curve, curves.

Long data are binned or thinned, and every chart says in its notes what it left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ytrainer_core.reports.render import number
from ytrainer_core.reports.svg import BLUE, FAINT, GREEN, MUTED, ORANGE, draw_svg

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Floats = NDArray[float64]

Curve = Sequence[tuple[float, float]]

_BINS = 48
_MOST_POINTS = 400  # longer curves are drawn as mean and range of that many stretches

LOSS_BANDS = (0.0, 0.5, 1.2, 3.0, 6.2, 15.0)
"""Lower edges in nats of the bands in which token losses are tabled."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn figure: `svg` is markup of ours, empty where there was nothing to draw."""

    title: str
    svg: str
    notes: tuple[str, ...] = ()

    def __html__(self) -> str:  # lets a template print the drawing without a "safe" filter
        return self.svg


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: `style` is a matplotlib line style, `marker` marks single points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = BLUE
    style: str = "-"
    marker: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """Tokens whose loss lies in one band: share of tokens and of the summed weight per series."""

    label: str
    tokens: tuple[float, ...]
    weight: tuple[float, ...]


def distribution(
    title: str,
    values: Sequence[float],
    *,
    x_label: str,
    y_label: str = "rows",
    mark: float = math.nan,
    mark_label: str = "",
) -> Chart:
    """Draw a histogram with an optional vertical line at `mark`."""
    import numpy as np

    finite, notes = _finite(values)
    if not finite.size:
        return Chart(title, "", (*notes, "No values to draw."))
    marks = [mark] if math.isfinite(mark) else []
    low = min([0.0, float(finite.min()), *marks])
    high = max([float(finite.max()), *(1.08 * value for value in marks)])
    ordinary = max([float(np.percentile(finite, 99)), *marks])
    if high > 4 * ordinary > 0:  # a few giants would squeeze all others into one bar
        high = 1.5 * ordinary
        beyond = int((finite > high).sum())
        notes.append(
            f"The last bar also holds {beyond:,} beyond {number(high)}; the largest is "
            f"{number(float(finite.max()))}."
        )
    if high <= low:
        high = low + 1.0
    counts, edges = np.histogram(np.minimum(finite, high), bins=_BINS, range=(low, high))

    def draw(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=FAINT, label=y_label)
        axes.stairs(counts, edges, color=BLUE, linewidth=1.1)
        if marks:
            axes.axvline(
                mark, color=ORANGE, linestyle="--", linewidth=1.6, label=mark_label or "limit"
            )
        axes.set_xlim(low, high)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return Chart(title, draw_svg(title, draw, integer_y=True), tuple(notes))


def changes(title: str, values: Sequence[float], *, x_label: str, y_label: str) -> Chart:
    """Draw a histogram of changes around zero: falls to the left, rises to the right."""
    import numpy as np

    finite, notes = _finite(values)
    if not finite.size:
        return Chart(title, "", (*notes, "No values to draw."))
    sizes = np.abs(finite)
    widest = float(sizes.max())
    ordinary = float(np.percentile(sizes, 99))
    if widest > 4 * ordinary > 0:  # a few giants would squeeze all others into one bar
        reach = 1.5 * ordinary
        notes.append(
            f"The outer bars also hold {int((sizes > reach).sum()):,} beyond ±{number(reach)}; "
            f"the largest change is {number(float(finite[sizes.argmax()]))}."
        )
    else:
        reach = widest or 1.0
    bins = _BINS + 1  # odd, so that one bar stands over zero and not two beside it
    counts, edges = np.histogram(np.clip(finite, -reach, reach), bins=bins, range=(-reach, reach))
    middle = bins // 2

    def draw(axes: Any) -> None:
        for label, low, high, color in (
            ("better", 0, middle, GREEN),
            ("about the same", middle, middle + 1, MUTED),
            ("worse", middle + 1, bins, ORANGE),
        ):
            part = {"fill": True, "color": color, "label": label}
            axes.stairs(counts[low:high], edges[low : high + 1], **part)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return Chart(title, draw_svg(title, draw, integer_y=True), tuple(notes))


def token_losses(title: str, series: Mapping[str, Sequence[float]], weight_curve: Curve) -> Chart:
    """Draw the distribution of token losses, the weight curve over it.

    The share of tokens has a logarithmic axis: most tokens of a good model lie in the first bar.

    series: label -> nll in nats of every token; one or two of them (before, after).
    weight_curve: (nll, weight) points, ascending; empty where training did not weight.
    """
    import numpy as np

    notes: list[str] = []
    drawn: dict[str, Floats] = {}
    for label, values in series.items():
        finite, faults = _finite(values, f"{label}: ")
        notes += faults
        if finite.size:
            drawn[label] = finite
    if not drawn:
        return Chart(title, "", (*notes, "No token losses to draw."))
    top = max([float(x) for x, _ in weight_curve] or [LOSS_BANDS[-1]])
    edges = np.linspace(0.0, top, _BINS + 1)
    for label, finite in drawn.items():
        if beyond := int((finite > top).sum()):
            notes.append(f"{label}: the last bar also holds {beyond:,} beyond {top:g} nats.")

    def draw(axes: Any) -> None:
        lowest: list[float] = []
        looks = [(BLUE, FAINT)] if len(drawn) == 1 else [(MUTED, FAINT), (BLUE, None)]
        for (label, finite), (color, fill) in zip(drawn.items(), looks, strict=True):
            counts, _ = np.histogram(np.clip(finite, 0, top), bins=edges)
            shares = 100 * counts / finite.size
            lowest.append(100 / finite.size)
            if fill:
                axes.stairs(shares, edges, fill=True, color=fill)
            axes.stairs(shares, edges, color=color, linewidth=1.4, label=label)
        axes.set_xlim(0, top)
        axes.set_xlabel("loss of a token, nats")
        axes.set_yscale("log")
        axes.set_ylim(0.5 * min(lowest), 100)  # half a token
        axes.set_ylabel("% of tokens, log scale")
        if weight_curve:
            right = axes.twinx()
            look = {"color": ORANGE, "linewidth": 1.8, "linestyle": "--"}
            right.plot(*zip(*weight_curve, strict=True), **look)
            axes.plot([], [], label="weight (right)", **look)  # for the legend
            right.set_ylim(0, 1.05)
            right.set_ylabel("weight on the loss")
            right.grid(False)

    return Chart(title, draw_svg(title, draw), tuple(notes))


def loss_bands(series: Mapping[str, Sequence[float]], weight_curve: Curve) -> list[Band]:
    """Table the same distribution: per band the share of tokens and of the summed weight.

    A series without finite values has NaN shares, so that the columns stay those of `series`.
    """
    import numpy as np

    finite = (_finite(values)[0] for values in series.values())
    drawn = [np.maximum(values, 0.0) for values in finite]  # -1e-8 is rounding
    if not any(values.size for values in drawn):
        return []
    weights = []
    if weight_curve:
        x, y = np.asarray(weight_curve, dtype=np.float64).T
        weights = [np.interp(values, x, y) for values in drawn]
    bands = []
    for low, high in zip(LOSS_BANDS, (*LOSS_BANDS[1:], math.inf), strict=True):
        inside = [(values >= low) & (values < high) for values in drawn]
        shares = [_ratio(int(mask.sum()), mask.size) for mask in inside]
        weighted = [
            _ratio(float(weight[mask].sum()), float(weight.sum()))
            for weight, mask in zip(weights, inside, strict=bool(weights))
        ]
        label = f"{low:g}–{high:g}" if math.isfinite(high) else f"{low:g} and more"
        bands.append(Band(label, tuple(shares), tuple(weighted)))
    return bands


def _ratio(part: float, total: float) -> float:
    return part / total if total else math.nan


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
) -> Chart:
    """Draw curves over a shared x; values that are not finite leave gaps and a note."""
    import numpy as np

    notes: list[str] = []
    kept: list[tuple[Line, Floats, Floats]] = []
    for line in lines:
        x, y = np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
        bad = ~np.isfinite(y)
        if bad.any():
            notes.append(
                f"{line.label}: not finite at {int(bad.sum()):,} of {y.size:,} points, "
                f"the first at {x_label} {x[bad][0]:,.0f}."
            )
        if not bad.all():
            kept.append((line, x, y))
    if not kept:
        return Chart(title, "", (*notes, "No values to draw."))
    if any(x.size > _MOST_POINTS for _, x, _ in kept):
        notes.append(f"Drawn as mean and range of {_MOST_POINTS} equal stretches.")

    def draw(axes: Any) -> None:
        for line, x, y in kept:
            if x.size > _MOST_POINTS:
                x, y = x[np.isfinite(y)], y[np.isfinite(y)]
                xs = [float(part.mean()) for part in np.array_split(x, _MOST_POINTS) if part.size]
                parts = [part for part in np.array_split(y, _MOST_POINTS) if part.size]
                axes.fill_between(
                    xs,
                    [part.min() for part in parts],
                    [part.max() for part in parts],
                    color=line.color,
                    alpha=0.18,
                    linewidth=0,
                )
                x, y = np.asarray(xs), np.asarray([part.mean() for part in parts])
            marker = line.marker or ("o" if np.isfinite(y).sum() == 1 else "")
            axes.plot(
                x,
                np.where(np.isfinite(y), y, np.nan),
                color=line.color,
                linestyle=line.style,
                linewidth=1.5,
                marker=marker,
                markersize=4,
                label=line.label,
            )
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return Chart(title, draw_svg(title, draw), tuple(notes))


def _finite(values: Sequence[float], prefix: str = "") -> tuple[Floats, list[str]]:
    import numpy as np

    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    lost = array.size - finite.size
    notes = [f"{prefix}{lost:,} of {array.size:,} values are not finite and left out."]
    return finite, notes if lost else []
