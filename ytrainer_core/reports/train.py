"""The report of a training stage: loss curves, learning rate, what happened to the tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ytrainer_core.reports.figures import Chart, Curve, Line, curves, loss_bands, token_losses
from ytrainer_core.reports.render import write_page
from ytrainer_core.reports.svg import BLUE, GREEN, MUTED, ORANGE, PURPLE

_NATS = "nats per token"


@dataclass(frozen=True, slots=True)
class TrainReport:
    """settings, summary: name -> value as shown; history: log rows as transformers writes them.

    Keys of a history row: step, loss, learning_rate, grad_norm, eval_loss (or
    eval_<set>_loss), mean_weight, nll (unweighted mean, nats), tokens_per_second;
    any may be missing. nll_before, nll_after: token losses in nats, may be empty.
    Preference tuning: also rewards/chosen, rewards/rejected, rewards/margins, kl, eval_accuracy.
    loss_unit: what the loss is measured in.
    """

    title: str
    settings: Mapping[str, str]
    history: Sequence[Mapping[str, float]]
    summary: Mapping[str, str]
    nll_before: Sequence[float] = ()
    nll_after: Sequence[float] = ()
    weight_curve: Curve = ()
    loss_unit: str = _NATS


_MEASURES = (  # key, title, unit on the axis, axis from zero?
    ("learning_rate", "Learning rate", "learning rate", True),
    ("mean_weight", "Mean weight on the token losses", "mean weight", True),
    ("grad_norm", "Gradient norm", "gradient norm before clipping", True),
    ("tokens_per_second", "Throughput", "tokens per second", True),
    ("rewards/margins", "Margin between liked and disliked answers", "reward", False),
    ("kl", "Distance from the reference", "nats per answer", True),
    ("eval_accuracy", "Held-out accuracy", "share", False),
)


def write_train_report(path: Path, data: TrainReport) -> None:
    """Write the report atomically as one HTML file."""
    series = {"before training": data.nll_before, "after training": data.nll_after}
    series = {label: values for label, values in series.items() if len(values)}
    charts = [_loss_chart(data.history, data.loss_unit)]
    if rewards := _reward_lines(data.history):
        charts.append(curves("Rewards", rewards, x_label="step", y_label="reward"))
    for key, title, unit, from_zero in _MEASURES:
        line = _line(data.history, key, title, PURPLE)
        if line.x:
            charts.append(curves(title, [line], x_label="step", y_label=unit, from_zero=from_zero))
    write_page(
        path,
        "train.html.j2",
        data=data,
        charts=charts,
        faults=_faults(data.history),
        loss_chart=token_losses("Losses of single tokens", series, data.weight_curve)
        if series
        else None,
        series=list(series),
        bands=loss_bands(series, data.weight_curve),
    )


def _reward_lines(history: Sequence[Mapping[str, float]]) -> list[Line]:
    liked = _line(history, "rewards/chosen", "liked answers", BLUE)
    disliked = _line(history, "rewards/rejected", "disliked answers", ORANGE)
    return [line for line in (liked, disliked) if line.x]


def _loss_chart(history: Sequence[Mapping[str, float]], unit: str) -> Chart:
    measure = "nll" if unit == _NATS else "loss"
    evaluated = sorted({key for row in history for key in row if _is_eval_loss(key)})
    lines = [
        _line(history, "loss", "train loss, weighted", MUTED, "-"),
        _line(history, "nll", "train nll", BLUE, "-"),
        *(
            _line(history, key, _eval_label(key, measure), color, "--", "o")
            for key, color in zip(evaluated, (ORANGE, GREEN, PURPLE), strict=False)
        ),
    ]
    drawn = [line for line in lines if line.x]
    return curves("Loss", drawn, x_label="step", y_label=unit)


def _is_eval_loss(key: str) -> bool:
    return re.fullmatch(r"eval_(\w+_)?loss", key) is not None


def _eval_label(key: str, measure: str) -> str:
    name = key.removeprefix("eval_").removesuffix("loss").strip("_")
    return f"held-out {measure}, {name}" if name else f"held-out {measure}"


def _line(
    history: Sequence[Mapping[str, float]],
    key: str,
    label: str,
    color: str,
    style: str = "-",
    marker: str = "",
) -> Line:
    rows = [row for row in history if key in row and "step" in row]
    return Line(label, [r["step"] for r in rows], [r[key] for r in rows], color, style, marker)


def _faults(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Say where a loss or a gradient was not a number: it must not hide in a gap of a curve."""
    faults = []
    for key in ("loss", "nll", "grad_norm", "eval_loss"):
        logged = [row for row in history if key in row]
        bad = [row for row in logged if not math.isfinite(row[key])]
        if bad:
            step = f" at step {bad[0]['step']:,.0f}" if "step" in bad[0] else ""
            faults.append(
                f"{key} was not finite in {len(bad):,} of {len(logged):,} log rows, first{step}."
            )
    return faults
