"""evaluate: base and tuned model on the same held-out rows, and the gate's verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ytrainer_core import __version__
from ytrainer_core.config import DataConfig, EvaluateStageConfig, NlirgConfig
from ytrainer_core.data.corpus import SPLITS, Corpus
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import DataError
from ytrainer_core.evaluation.gate import Verdict, judge
from ytrainer_core.evaluation.measure import Measurement, Question, measure
from ytrainer_core.evaluation.tasks import exact_match
from ytrainer_core.files import sha256_json, write_json
from ytrainer_core.reports.evaluate import (
    EvaluateReport,
    Generation,
    MetricLine,
    write_evaluate_report,
)
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import REPORT_TOKENS, corpus_for, weight_curve
from ytrainer_core.training.model import ModelCard, load_model, load_trained, locate

_BETTER: dict[str, tuple[Literal["lower", "higher"], str]] = {
    "target_loss": ("lower", "nats per token"),
    "target_perplexity": ("lower", ""),
    "general_loss": ("lower", "nats per token"),
    "general_perplexity": ("lower", ""),
    "exact_match": ("higher", ""),
    "token_f1": ("higher", ""),
}
_SHOWN_ANSWERS = 40


def evaluate(config: EvaluateStageConfig, context: StageContext) -> StageResult:
    """Measure both models on one digest, judge, write verdict and report."""
    folder = Path(context.required("model", "Give the trained model folder: --input model=DIR."))
    tuned_model, tokenizer, card = load_trained(folder, config.model)
    corpus = corpus_for(config, context, tokenizer)
    if not len(corpus.validation):
        raise DataError(
            "there is no held-out row to evaluate on. Set data.validation, or "
            "data.validation_fraction above 0."
        )
    cut = config.data.model_copy(update={"on_too_long": "truncate"})
    rows: dict[str, Any] = {
        "target": tokenize_dataset(corpus.validation, tokenizer, config.data),
        "general": tokenize_dataset(corpus.general, tokenizer, cut),
        "questions": questions(corpus, tokenizer, config),
    }
    digest = sha256_json(
        [
            corpus.manifest["sha256"],
            __version__,
            config.evaluate.model_dump(mode="json"),
            config.data.model_dump(mode="json", exclude=set(SPLITS)),
        ]
    )
    limit = config.data.max_length
    tuned = measure(tuned_model, tokenizer, max_length=limit, config=config.evaluate, **rows)
    with base_model(tuned_model, card, config) as model:
        base = measure(model, tokenizer, max_length=limit, config=config.evaluate, **rows)
    verdict = judge(base.metrics, tuned.metrics, len(corpus.validation), config.gate)
    write_json(
        context.outputs["evaluation"],
        {
            "digest": digest,
            "base": base.metrics,
            "tuned": tuned.metrics,
            "passed": verdict.passed,
            "reasons": [asdict(reason) for reason in verdict.reasons],
        },
    )
    _write_report(context, base, tuned, verdict, rows["questions"])
    context.run.tag("ytrainer.evaluation_digest", digest)
    context.run.tag("ytrainer.gate", "passed" if verdict.passed else "rejected")
    return StageResult(
        metrics={f"base_{name}": value for name, value in base.metrics.items()} | tuned.metrics,
        values={"passed": verdict.passed},
        summary={
            name.replace("_", " "): f"{base.metrics[name]:.3f} -> {tuned.metrics[name]:.3f}"
            for name in _BETTER
            if name in tuned.metrics
        }
        | {
            "gate": "passed" if verdict.passed else "rejected",
            "reasons": "\n".join(
                f"{'+' if reason.passed else '-'} {reason.text}" for reason in verdict.reasons
            ),
        },
    )


@contextlib.contextmanager
def base_model(tuned: Any, card: ModelCard, config: EvaluateStageConfig) -> Any:
    """The base of a tuned model: its adapter switched off, or loaded after it."""
    if card.kind == "adapter":
        with tuned.disable_adapter():
            yield tuned
        return
    tuned.to("meta")  # frees its memory before the base comes in
    yield load_model(locate(config.model), config.model).eval()


def questions(corpus: Corpus, tokenizer: Any, config: EvaluateStageConfig) -> list[Question]:
    """Held-out rows as prompts: everything up to the last assistant turn, and that turn."""
    found: list[Question] = []
    for row in corpus.validation:
        messages = _with_system(row["messages"], config.data)
        if len(found) == config.evaluate.max_generate_rows:
            break
        if not messages or messages[-1]["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) < config.data.max_length:
            found.append(Question(ids, messages[-2]["content"], messages[-1]["content"]))
    return found


def _with_system(messages: Sequence[dict[str, str]], data: DataConfig) -> list[dict[str, str]]:
    if data.system_prompt and messages and messages[0]["role"] != "system":
        return [{"role": "system", "content": data.system_prompt}, *messages]
    return list(messages)


def _write_report(
    context: StageContext,
    base: Measurement,
    tuned: Measurement,
    verdict: Verdict,
    asked: Sequence[Question],
) -> None:
    stride = max(1, len(base.nll) // REPORT_TOKENS)
    write_evaluate_report(
        context.outputs["report"],
        EvaluateReport(
            title="Evaluation",
            metrics=[
                MetricLine(name, base.metrics[name], tuned.metrics[name], better, unit)
                for name, (better, unit) in _BETTER.items()
                if name in tuned.metrics
            ],
            verdict=verdict.passed,
            reasons=verdict.reasons,
            generations=[
                Generation(
                    question.prompt,
                    question.expected,
                    before,
                    after,
                    bool(exact_match(before, question.expected)),
                    bool(exact_match(after, question.expected)),
                )
                for question, before, after in list(
                    zip(asked, base.answers, tuned.answers, strict=True)
                )[:_SHOWN_ANSWERS]
            ],
            nll_base=base.nll[::stride].tolist(),
            nll_tuned=tuned.nll[::stride].tolist(),
            weight_curve=weight_curve(NlirgConfig()),
        ),
    )


STAGE = Stage(
    "evaluate",
    EvaluateStageConfig,
    evaluate,
    ("model", "dataset"),
    {"evaluation": "artifact", "report": "html"},
)
