"""order: the permutation in which training sees the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ytrainer_core.config import OrderConfig, OrderStageConfig
from ytrainer_core.curriculum.difficulty import UNSORTED, difficulties
from ytrainer_core.curriculum.groups import group_numbers
from ytrainer_core.curriculum.order import permutation
from ytrainer_core.curriculum.signals import Floats, Ints, read_origins, read_signals
from ytrainer_core.data.corpus import Corpus, load_corpus, raw_text
from ytrainer_core.errors import DataError
from ytrainer_core.files import write_json
from ytrainer_core.reports.order import OrderedRow, OrderReport, write_order_report
from ytrainer_core.stages.base import Stage, StageContext, StageResult

_SHOWN_ROWS = 5
_SNIPPET_CHARACTERS = 200

_SCORE_DECIMALS = 6
"""Of the difficulties in the order file."""


def order(config: OrderStageConfig, context: StageContext) -> StageResult:
    """Rate every row, sort, write the order file and its report."""
    remedy = "Run `ytrainer score` first and give its outputs: --input dataset=… --input scores=…"
    corpus = load_corpus(Path(context.required("dataset", remedy)))
    scores = Path(context.required("scores", remedy))
    if read_origins(scores) != list(corpus.train["origin"]):
        raise DataError(
            "the score table and the corpus hold different rows. Give the 'dataset' and "
            "'scores' outputs of one run of the score stage."
        )
    groups = group_numbers(corpus.train, config.order)
    rated = difficulties(read_signals(scores), groups, config.order, config.seed)
    rows = permutation(rated, groups, config.order, config.seed)
    write_json(context.outputs["order"], order_file(config, rows, rated))
    settings = _settings(config.order, rated, groups)
    _write_report(context.outputs["report"], corpus, config.order, rows, rated, settings)
    finite = rated[np.isfinite(rated)]
    return StageResult(
        metrics={
            "rows_ordered": float(len(rows)),
            "rows_without_difficulty": float(len(rated) - len(finite)),
        }
        | ({"mean_difficulty": float(finite.mean())} if len(finite) else {}),
        summary={"order": f"{len(rows):,} rows by {config.order.mode}", **settings},
    )


def order_file(config: OrderStageConfig, rows: Ints, rated: Floats) -> dict[str, Any]:
    """What the order file holds: how the order came about, and the order.

    rows: row numbers of the corpus in training order. scores: their difficulties, in that order,
    null where a difficulty is not defined.
    """
    return {
        "mode": config.order.mode,
        "descending": config.order.descending,
        "schedule": config.order.schedule,
        "group_by": config.order.group_by,
        "seed": config.seed,
        "rows": rows.tolist(),
        "scores": [
            round(score, _SCORE_DECIMALS) if np.isfinite(score) else None
            for score in rated[rows].tolist()
        ],
    }


def _settings(config: OrderConfig, rated: Floats, groups: Ints) -> dict[str, str]:
    """What a person should know of the order besides its mode; only what is not usual."""
    said = {}
    if config.mode == "none":
        said["note"] = "training shuffles the rows, since order.mode is none"
        return said
    if config.descending:
        said["direction"] = "descending"
    if config.schedule == "buckets":
        said["schedule"] = f"shuffled inside {config.buckets} buckets"
    elif config.schedule == "competence":
        said["schedule"] = f"a growing share of the rows, from {config.competence_start:.0%} on"
    if config.group_by != "none":
        count = int(groups.max()) + 1 if len(groups) else 0
        said["groups"] = f"{count:,} by {config.group_by}"
    lost = int(np.isnan(rated).sum())
    if lost and config.mode not in UNSORTED:
        said["rows without a difficulty"] = f"{lost:,}, behind all others"
    return said


def _write_report(
    path: Path,
    corpus: Corpus,
    config: OrderConfig,
    rows: Ints,
    rated: Floats,
    settings: dict[str, str],
) -> None:
    def shown(indices: Ints) -> list[OrderedRow]:
        return [
            OrderedRow(row["origin"], float(rated[i]), raw_text(row)[:_SNIPPET_CHARACTERS])
            for i, row in ((i, corpus.train[i]) for i in indices.tolist())
        ]

    write_order_report(
        path,
        OrderReport(
            title="Order of the corpus",
            mode=config.mode,
            difficulty=rated[rows].tolist(),
            first=shown(rows[:_SHOWN_ROWS]),
            last=shown(rows[-_SHOWN_ROWS:]),
            settings=settings,
        ),
    )


STAGE = Stage(
    "order",
    OrderStageConfig,
    order,
    ("dataset", "scores"),
    {"order": "artifact", "report": "html"},
)
