"""order: the permutation in which training sees the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ytrainer_core.config import OrderStageConfig
from ytrainer_core.curriculum.order import difficulties, permutation
from ytrainer_core.data.corpus import load_corpus, raw_text
from ytrainer_core.errors import DataError
from ytrainer_core.files import write_json
from ytrainer_core.reports.order import OrderedRow, OrderReport, write_order_report
from ytrainer_core.scoring.table import read_scores
from ytrainer_core.stages.base import Stage, StageContext, StageResult

_SHOWN_ROWS = 5
_SNIPPET_CHARACTERS = 200


def order(config: OrderStageConfig, context: StageContext) -> StageResult:
    """Rate every row, sort, write the order file and its report."""
    remedy = "Run `ytrainer score` first and give its outputs: --input dataset=… --input scores=…"
    corpus = load_corpus(Path(context.required("dataset", remedy)))
    scores = read_scores(Path(context.required("scores", remedy)))
    if scores.origins != list(corpus.train["origin"]):
        raise DataError(
            "the score table and the corpus hold different rows. Give the 'dataset' and "
            "'scores' outputs of one run of the score stage."
        )
    rated = difficulties(scores.nll, scores.entropy, config.order, config.seed)
    rows = permutation(rated, descending=config.order.descending)
    write_json(context.outputs["order"], {"mode": config.order.mode, "rows": rows})
    in_order = [float(rated[i]) for i in rows]

    def shown(indices: list[int]) -> list[OrderedRow]:
        return [
            OrderedRow(
                scores.origins[i], float(rated[i]), raw_text(corpus.train[i])[:_SNIPPET_CHARACTERS]
            )
            for i in indices
        ]

    write_order_report(
        context.outputs["report"],
        OrderReport(
            title="Order of the corpus",
            mode=config.order.mode,
            difficulty=in_order,
            first=shown(rows[:_SHOWN_ROWS]),
            last=shown(rows[-_SHOWN_ROWS:]),
        ),
    )
    finite = rated[np.isfinite(rated)]
    return StageResult(
        metrics={"rows_ordered": float(len(rows)), "mean_difficulty": float(finite.mean())},
        summary={"order": f"{len(rows):,} rows by {config.order.mode}"},
    )


STAGE = Stage(
    "order",
    OrderStageConfig,
    order,
    ("dataset", "scores"),
    {"order": "artifact", "report": "html"},
)
