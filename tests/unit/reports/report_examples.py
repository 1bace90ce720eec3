"""Full and empty examples of every report, and a reader of pages that checks their nesting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ytrainer_core import reports as r
from ytrainer_core.evaluation.intervals import Difference, Estimate
from ytrainer_core.reports.score import ComparedRow, ComparedToken, Comparison

NASTY = "<script>alert('答')</script> & \"quoted\" \x00\ud800 https://example.com/x.png"
CURVE = [(0.0, 0.1), (3.0, 1.0), (15.0, 0.0)]
NAN = math.nan

FULL: dict[Callable[..., None], Any] = {
    r.write_validate_report: r.ValidateReport(
        title=NASTY,
        sources=[r.SourceLine("语料.jsonl" + NASTY, "ab" * 32, 1234567)],
        counts={"read": 1234567, "train": 1234000, "quarantined": 567},
        rules=[
            r.RuleLine("empty_answer", "error", NASTY, 567, [r.Sample(NASTY, NASTY, NASTY)]),
            r.RuleLine("role_order", "error", "turns do not alternate", 0),
        ],
        shapes={"alpaca": 3, NASTY: 1},
        lengths=[10, 20, 30, 2000],
        max_length=1024,
        previews=[r.Preview(NASTY, [("question\n", False), ("answer" + NASTY, True)])],
    ),
    r.write_score_report: r.ScoreReport(
        title=NASTY,
        method="mean_loss",
        rows=[
            r.ScoredRow(
                NASTY,
                4.2,
                True,
                NASTY,
                [
                    r.ScoredToken("zero ", 0.1, 0.1),
                    r.ScoredToken("one ", 7.0, 0.3, expected=[(NASTY, 0.5), ("", NAN)]),
                    r.ScoredToken("two ", 99.0, 5.0, before=NASTY),
                    r.ScoredToken("three " + NASTY, NAN, NAN),
                ],
                [(1, 3)],
                {NASTY: NAN, "mean_loss": 4.2},
            )
        ],
        scores=[0.5, 1.0, 4.2, NAN],
        flag_threshold=4.0,
        nll=[0.1, 7.0, 99.0, NAN],
        weight_curve=CURVE,
        patterns={"confident_error": 0.25, "normal": NAN},
        comparison=Comparison(
            base=NASTY,
            tuned=NASTY,
            rows=[ComparedRow(NASTY, NASTY, [ComparedToken(NASTY, 1.0, 9.0, before=NASTY)])],
            base_nll=[1.0, NAN],
            tuned_nll=[2.0, 3.0],
        ),
    ),
    r.write_train_report: r.TrainReport(
        title=NASTY,
        settings={"data.train": NASTY},
        history=[
            {"step": 1, "loss": 2.0, "nll": 3.0, "learning_rate": 1e-4, "grad_norm": 1.0},
            {"step": 1, "eval_loss": 2.5, "eval_general_loss": 2.7},
            {"step": 1000, "loss": NAN, "mean_weight": 0.3, "tokens_per_second": 1100.0},
            {"train_runtime": 3.0},
        ],
        summary={"final loss": NASTY},
        nll_before=[1.0, 2.0, 16.0],
        nll_after=[NAN],
        weight_curve=CURVE,
    ),
    r.write_evaluate_report: r.EvaluateReport(
        title=NASTY,
        verdict=False,
        reasons=[r.Reason(False, NASTY), r.Reason(True, "the target loss fell")],
        names={"base": NASTY, "champion": "models:/m/3", "challenger": "folder"},
        metrics=[
            r.MetricLine(
                "target loss",
                "Target",
                "lower",
                "nats per token",
                "Mean loss.",
                {
                    "base": Estimate(2.0, 1.9, 2.1, 40),
                    "champion": Estimate(1.5, 1.4, 1.6, 40),
                    "challenger": Estimate(1.0, 0.9, 1.1, 40),
                },
                {
                    "base": Difference(-1.0, -1.1, -0.9, 0.001, 40),
                    "champion": Difference(-0.5, -0.6, 0.1, 0.2, 40),
                },
            ),
            r.MetricLine(
                "exact match",
                "Target",
                "higher",
                "share",
                "Right ones.",
                {
                    "base": Estimate(0.1, 0.0, 0.2, 40),
                    "champion": Estimate(0.5, 0.4, 0.6, 40),
                    "challenger": Estimate(0.1, 0.0, 0.2, 40),
                },
                {
                    "base": Difference(0.0, 0.0, 0.0, 1.0, 40),
                    "champion": Difference(-0.4, -0.5, -0.3, 0.001, 40),
                },
            ),
            r.MetricLine(
                "target kl",
                "Target",
                "none",
                "nats per token",
                "How far.",
                {"challenger": Estimate(0.25, 0.2, 0.3, 40)},
                {},
            ),
            r.MetricLine(
                NASTY,
                "General set",
                "higher",
                NASTY,
                NASTY,
                {"base": Estimate(NAN, NAN, NAN, 40), "challenger": Estimate(1.0, 1.0, 1.0, 40)},
                {"base": Difference(NAN, NAN, NAN, NAN, 40)},
            ),
        ],
        generations=[
            r.Generation(
                "asked",
                "answer",
                {"base": "no", "champion": "RIGHT-BOTH", "challenger": "yes"},
                {"base": False, "champion": True, "challenger": True},
            ),
            r.Generation(
                NASTY,
                NASTY,
                {"base": "yes", "champion": NASTY, "challenger": "WRONG-NOW"},
                {"base": True, "champion": True, "challenger": False},
            ),
        ],
        right_by="exact match",
        comparison=Comparison(
            base=NASTY,
            tuned=NASTY,
            rows=[
                ComparedRow("better:1", NASTY, [ComparedToken("good", 3.0, 1.0, before=NASTY)]),
                ComparedRow("worse:2", "", [ComparedToken(NASTY, 1.0, 9.0)]),
                ComparedRow("nan:3", "", [ComparedToken("x", NAN, 1.0)]),
            ],
            base_nll=[3.0, 1.0, NAN],
            tuned_nll=[1.0, 9.0, 1.0],
            token_changes=[-2.0, 8.0, NAN],
        ),
        nll_base=[1.0, 2.0],
        nll_tuned=[0.5, NAN],
        weight_curve=CURVE,
    ),
    r.write_order_report: r.OrderReport(
        title=NASTY,
        mode="mean_loss",
        difficulty=[0.5, 1.0, NAN, 2.0],
        first=[r.OrderedRow(NASTY, 0.5, NASTY)],
        last=[r.OrderedRow("b", NAN, "答")],
    ),
}

_EMPTY: dict[str, Any] = {
    "title": "",
    "method": "anomaly",
    "mode": "none",
    "max_length": 8,
    "flag_threshold": NAN,
    "verdict": True,
    "names": {},
    "comparison": None,
    "right_by": "",
    "counts": {},
    "shapes": {},
    "patterns": {},
    "settings": {},
    "summary": {},
}


def empty_like(data: Any) -> Any:
    """Give the same kind of report with nothing in it."""
    return type(data)(**{f.name: _EMPTY.get(f.name, []) for f in dataclasses.fields(data)})


class Page(HTMLParser):
    """Elements with attributes and text; raises where tags do not nest."""

    _VOID = frozenset({"meta", "input", "br", "hr", "img", "link"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.raw = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(self.raw)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in self._VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self._open:
            text.append(data)

    def cells(self) -> list[list[str]]:
        """The texts of the cells of every table row."""
        rows: list[list[str]] = []
        for name, _, text in self.elements:
            if name == "tr":
                rows.append([])
            elif name in {"td", "th"}:
                rows[-1].append(" ".join("".join(text).split()))
        return rows

    def texts(self, tag: str, css_class: str = "") -> list[str]:
        return [
            " ".join("".join(text).split())
            for name, attributes, text in self.elements
            if name == tag and (not css_class or css_class in attributes.get("class", "").split())
        ]
