"""validate: every row is read, checked and either kept or quarantined with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import DataConfig, ValidateConfig
from ytrainer_core.data.checks import RULES, RuleBook
from ytrainer_core.data.corpus import SPLITS, Corpus, read_quarantine, row_of
from ytrainer_core.data.formats import Rejected
from ytrainer_core.data.prepare import Prepared, prepare
from ytrainer_core.data.rules.language import language_of_row
from ytrainer_core.data.tokenize import mask_segments, tokenize_configured
from ytrainer_core.reports.validate import (
    Preview,
    RuleLine,
    Sample,
    SourceLine,
    ValidateReport,
    write_validate_report,
)
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import base_of, data_of, record_lineage

if TYPE_CHECKING:
    from datasets import Dataset

_PREVIEWS = 3
_SAMPLES_PER_RULE = 5
_LANGUAGE_ROWS = 200


def validate(config: ValidateConfig, context: StageContext) -> StageResult:
    """Read, check, split; write the clean corpus, the quarantine and the report."""
    tokenizer = base_of(config.model)[1] if config.model.name_or_path else None
    data = data_of(config)
    prepared = prepare(data, context.outputs["dataset"], tokenizer=tokenizer, seed=config.seed)
    corpus = prepared.corpus
    record_lineage(corpus, context)
    shown = corpus.train.select(range(min(_PREVIEWS, len(corpus.train))))
    previews = _previews(shown, tokenizer, data) if tokenizer else []
    manifest = corpus.manifest
    write_validate_report(
        context.outputs["report"],
        ValidateReport(
            title="Validation",
            sources=[
                SourceLine(s["path"], s["sha256"], s["rows"], s["rate"], s["taken"])
                for s in manifest["sources"]
            ],
            counts=_counts(corpus),
            rules=_rule_lines(prepared, data),
            shapes=manifest["counts"]["shapes"],
            kinds=manifest["counts"]["kinds"],
            labels={k: n for k, n in manifest["counts"]["kinds"].items() if k in ("good", "bad")},
            languages=_languages(corpus),
            lengths=prepared.lengths,
            max_length=data.max_length,
            previews=previews,
        ),
    )
    return _result(corpus, prepared.targets if tokenizer else None, data)


def _previews(shown: Dataset, tokenizer: Any, data: DataConfig) -> list[Preview]:
    """Rows with the tokens that are trained."""
    tokens = tokenize_configured([(r["messages"], r["text"]) for r in shown], tokenizer, data)
    return [
        Preview(row["origin"], mask_segments(row_tokens, tokenizer))
        for row, row_tokens in zip(shown, tokens, strict=True)
    ]


def _languages(corpus: Corpus) -> dict[str, int]:
    """Languages of some training rows, spread over all of them."""
    rows = len(corpus.train)
    shown = corpus.train.select(range(0, rows, -(-rows // _LANGUAGE_ROWS)))
    found = Counter(language_of_row(row_of(record)) or "uncertain" for record in shown)
    return dict(found.most_common())


def _result(corpus: Corpus, targets: int | None, data: DataConfig) -> StageResult:
    """targets: trained tokens of the training rows; None where no tokenizer counted them."""
    counts = _counts(corpus)
    rules = corpus.manifest["counts"]["rules"]
    book = RuleBook(data)
    metrics = {f"rows_{name}": float(count) for name, count in counts.items()}
    counted = {} if targets is None else {"target_tokens": float(targets)}
    return StageResult(
        metrics=metrics | counted,
        values={"rules": rules},
        summary={
            "rows read": f"{counts['read']:,}",
            "rows kept": ", ".join(f"{counts[split]:,} {split}" for split in SPLITS[:4])
            + (f", {counts['earlier']:,} of the earlier model" if counts["earlier"] else ""),
            "rows quarantined": f"{counts['quarantined']:,}" + _by_rule(rules, book, "error"),
            "warnings": _by_rule(rules, book, "warning").removeprefix(" · ") or "none",
            **({} if targets is None else {"target tokens": f"{targets:,}"}),
        },
    )


def _counts(corpus: Corpus) -> dict[str, int]:
    names = ("read", *SPLITS, "quarantined")
    return {name: corpus.manifest["counts"][name] for name in names}


def _by_rule(rules: dict[str, int], book: RuleBook, severity: str) -> str:
    broken = [name for name in sorted(rules) if book.severity(name) == severity]
    return "".join(f" · {name} {rules[name]}" for name in broken)


def _rule_lines(prepared: Prepared, data: DataConfig) -> list[RuleLine]:
    samples: dict[str, list[Sample]] = {}
    _collect(samples, prepared.warned)
    _collect(samples, read_quarantine(prepared.corpus.folder))
    counts = prepared.corpus.manifest["counts"]["rules"]
    book = RuleBook(data)
    return [
        RuleLine(
            rule.name,
            book.severity(rule.name),
            rule.description,
            counts.get(rule.name, 0),
            samples.get(rule.name, []),
        )
        for rule in RULES.values()
    ]


def _collect(samples: dict[str, list[Sample]], rows: Iterable[Rejected]) -> None:
    for row in rows:
        found = samples.setdefault(row.rule, [])
        if len(found) < _SAMPLES_PER_RULE:
            found.append(Sample(row.origin, row.reason, row.raw))


STAGE = Stage("validate", ValidateConfig, validate, (), {"dataset": "dataset", "report": "html"})
