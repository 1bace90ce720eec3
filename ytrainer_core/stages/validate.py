"""validate: every row is read, checked and either kept or quarantined with its reason."""

from __future__ import annotations

from ytrainer_core.config import ValidateConfig
from ytrainer_core.data.checks import RULES
from ytrainer_core.data.corpus import SPLITS, Corpus, read_quarantine
from ytrainer_core.data.prepare import prepare_corpus
from ytrainer_core.data.tokenize import Tokenized, mask_segments, tokenize_dataset
from ytrainer_core.reports.validate import (
    Preview,
    RuleLine,
    Sample,
    SourceLine,
    ValidateReport,
    write_validate_report,
)
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import base_of, record_lineage

_PREVIEWS = 3
_SAMPLES_PER_RULE = 5


def validate(config: ValidateConfig, context: StageContext) -> StageResult:
    """Read, check, split; write the clean corpus, the quarantine and the report."""
    _, tokenizer = base_of(config.model)
    corpus = prepare_corpus(
        config.data, context.outputs["dataset"], tokenizer=tokenizer, seed=config.seed
    )
    record_lineage(corpus, context)
    rows = tokenize_dataset(corpus.train, tokenizer, config.data)
    lengths = [len(ids) for ids in rows["input_ids"]]
    targets = sum(label != -100 for labels in rows["labels"] for label in labels)
    write_validate_report(
        context.outputs["report"],
        ValidateReport(
            title="Validation",
            sources=[
                SourceLine(source["path"], source["sha256"], source.get("rows", 0))
                for source in corpus.manifest["sources"]
            ],
            counts=_counts(corpus),
            rules=_rule_lines(corpus),
            shapes=corpus.manifest["counts"].get("shapes", {}),
            lengths=lengths,
            max_length=config.data.max_length,
            previews=[
                Preview(
                    row["origin"],
                    mask_segments(Tokenized(row["input_ids"], row["labels"]), tokenizer),
                )
                for row in rows.select(range(min(_PREVIEWS, len(rows))))
            ],
        ),
    )
    counts = _counts(corpus)
    metrics = {f"rows_{name}": float(count) for name, count in counts.items()}
    metrics["target_tokens"] = float(targets)
    return StageResult(
        metrics=metrics,
        values={"rules": corpus.manifest["counts"]["rules"]},
        summary={
            "rows read": f"{counts['read']:,}",
            "rows kept": f"{counts['train']:,} train, {counts['validation']:,} validation, "
            f"{counts['general']:,} general, {counts['replay']:,} replay",
            "rows quarantined": f"{counts['quarantined']:,}"
            + "".join(f" · {rule} {n}" for rule, n in sorted(_quarantine_counts(corpus).items())),
            "target tokens": f"{targets:,}",
        },
    )


def _counts(corpus: Corpus) -> dict[str, int]:
    names = ("read", *SPLITS, "quarantined")
    return {name: corpus.manifest["counts"][name] for name in names}


def _quarantine_counts(corpus: Corpus) -> dict[str, int]:
    found = corpus.manifest["counts"]["rules"]
    return {name: n for name, n in found.items() if n and RULES[name].severity == "error"}


def _rule_lines(corpus: Corpus) -> list[RuleLine]:
    samples: dict[str, list[Sample]] = {}
    for rejected in read_quarantine(corpus.folder):
        found = samples.setdefault(rejected.rule, [])
        if len(found) < _SAMPLES_PER_RULE:
            found.append(Sample(rejected.origin, rejected.reason, rejected.raw))
    counts = corpus.manifest["counts"]["rules"]
    return [
        RuleLine(
            rule.name, rule.severity, rule.description, counts.get(name, 0), samples.get(name, [])
        )
        for name, rule in RULES.items()
    ]


STAGE = Stage("validate", ValidateConfig, validate, (), {"dataset": "dataset", "report": "html"})
