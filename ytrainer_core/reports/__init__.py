"""Self-contained HTML reports: one file per stage that has something to look at.

A report needs no network and no server; it opens from a disk, in an e-mail and
in Kubeflow's sandboxed viewer. Equal data gives equal bytes. jinja2, numpy and
matplotlib are imported on the first report, not with this package.
"""

from ytrainer_core.evaluation.verdict import Reason
from ytrainer_core.reports.evaluate import (
    EvaluateReport,
    Generation,
    MetricLine,
    write_evaluate_report,
)
from ytrainer_core.reports.order import OrderedRow, OrderReport, write_order_report
from ytrainer_core.reports.score import ScoredRow, ScoredToken, ScoreReport, write_score_report
from ytrainer_core.reports.train import TrainReport, write_train_report
from ytrainer_core.reports.validate import (
    Preview,
    RuleLine,
    Sample,
    SourceLine,
    ValidateReport,
    write_validate_report,
)

__all__ = [
    "EvaluateReport",
    "Generation",
    "MetricLine",
    "OrderReport",
    "OrderedRow",
    "Preview",
    "Reason",
    "RuleLine",
    "Sample",
    "ScoreReport",
    "ScoredRow",
    "ScoredToken",
    "SourceLine",
    "TrainReport",
    "ValidateReport",
    "write_evaluate_report",
    "write_order_report",
    "write_score_report",
    "write_train_report",
    "write_validate_report",
]
