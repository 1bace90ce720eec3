"""evaluate: base, champion and challenger on the same held-out rows, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ytrainer_core.config import EvaluateStageConfig
from ytrainer_core.evaluation.cache import read_measurement, write_measurement
from ytrainer_core.evaluation.gate import Contest, judge
from ytrainer_core.evaluation.intervals import Estimate
from ytrainer_core.evaluation.measure import Exam, Measurement, measure
from ytrainer_core.evaluation.metrics import Statistics
from ytrainer_core.evaluation.rules import parse_rules
from ytrainer_core.evaluation.verdict import Verdict
from ytrainer_core.files import sha256_json, write_json
from ytrainer_core.stages.base import Stage, StageContext, StageResult
from ytrainer_core.stages.common import corpus_for
from ytrainer_core.stages.evaluate_exam import evaluation_digest, exam_of, rows_to_reach
from ytrainer_core.stages.evaluate_models import Contestant, Contestants, Memory
from ytrainer_core.stages.evaluate_pages import Judged, write_pages
from ytrainer_core.training.model import load_tokenizer

_OTHER_TOKENS = (
    "The champion reads text in other tokens, so only its answers are compared, not its losses."
)


def evaluate(config: EvaluateStageConfig, context: StageContext) -> StageResult:
    """Measure all models on one digest, judge, write verdict and report."""
    folder = Path(context.required("model", "Give the trained model folder: --input model=DIR."))
    rules = parse_rules(config.gate.rules, config.evaluate.lm_eval)
    contestants = Contestants(folder, config)
    challenger, base = contestants.challenger(), contestants.base()
    champion, champion_uri, note = contestants.champion()
    tokenizer = load_tokenizer(folder, trust_remote_code=config.model.trust_remote_code)
    corpus = corpus_for(config, context, tokenizer)
    exam = exam_of(config, corpus, tokenizer)
    digest = evaluation_digest(config, corpus, exam, tokenizer, folder)

    measuring = _Measuring(config, exam, digest, tokenizer, Memory(config.model))
    measured = {"base": measuring.base(base)}
    measured["challenger"] = measuring.tuned(challenger, base, measured["base"])
    if champion:
        other_tokens = measuring.has_other_tokens(champion)
        note = _OTHER_TOKENS if other_tokens else ""
        measured["champion"] = measuring.tuned(champion, base, measured["base"])

    statistics = Statistics(config.gate.confidence, config.evaluate.resamples, config.seed)
    contest = Contest(
        challenger=measured["challenger"].scores,
        base=measured["base"].scores,
        champion=measured["champion"].scores if champion else None,
        rows=len(rows_to_reach(corpus)),
        champion_note=note,
    )
    verdict = judge(contest, config.gate, rules, statistics)
    models = {"base": base, "challenger": challenger}
    if champion:
        models["champion"] = champion
    judged = Judged.of(contest, verdict, statistics, {k: m.name for k, m in models.items()})
    write_json(context.outputs["evaluation"], _tree(judged, digest, champion_uri))
    write_pages(context.outputs["report"], judged, measured, exam, tokenizer)
    context.run.tag("ytrainer.evaluation_digest", digest)
    context.run.tag("ytrainer.gate", "passed" if verdict.passed else "rejected")
    return _result(judged, verdict)


@dataclass(frozen=True)
class _Measuring:
    """Measures a model, or finds what an earlier run measured of it on the same digest."""

    config: EvaluateStageConfig
    exam: Exam
    digest: str
    tokenizer: Any
    memory: Memory

    def base(self, contestant: Contestant) -> Measurement:
        """What the others are compared with, its token distributions included."""
        return self._measured(contestant, [], self.exam, self.tokenizer, None)

    def tuned(self, contestant: Contestant, base: Contestant, before: Measurement) -> Measurement:
        """A tuned model, and how far it went from the base."""
        exam, tokenizer = self.exam, self.tokenizer
        if self.has_other_tokens(contestant):
            tokenizer = self._own_tokenizer(contestant)
            exam = exam.for_other_tokens(tokenizer)
        return self._measured(contestant, [base.sha256], exam, tokenizer, before)

    def has_other_tokens(self, contestant: Contestant) -> bool:
        """Whether its losses per token cannot be compared."""
        return bool(self._own_tokenizer(contestant).get_vocab() != self.tokenizer.get_vocab())

    def _own_tokenizer(self, contestant: Contestant) -> Any:
        trust = self.config.model.trust_remote_code
        return load_tokenizer(contestant.tokenizer, trust_remote_code=trust)

    def _measured(
        self,
        contestant: Contestant,
        against: list[str],
        exam: Exam,
        tokenizer: Any,
        base: Measurement | None,
    ) -> Measurement:
        key = sha256_json([contestant.sha256, against, self.digest])
        known = read_measurement(key)
        if known is not None:
            return known
        with self.memory.holding(contestant) as model:
            found = measure(model, tokenizer, exam, base=base)
        write_measurement(key, found)
        return found


def _tree(judged: Judged, digest: str, champion_uri: str) -> dict[str, Any]:
    """evaluation.json, which register reads."""
    return {
        "digest": digest,
        "rows": judged.contest.rows,
        "passed": judged.verdict.passed,
        "reasons": [asdict(reason) for reason in judged.verdict.reasons],
        "champion": champion_uri,
        "models": {
            model: {
                "name": judged.names[model],
                "metrics": {name: asdict(value) for name, value in found.items()},
            }
            for model, found in judged.estimates.items()
        },
        "comparisons": {
            model: {name: asdict(value) for name, value in found.items()}
            for model, found in judged.differences.items()
        },
    }


def _result(judged: Judged, verdict: Verdict) -> StageResult:
    metrics = {
        name if model == "challenger" else f"{model}_{name}": found.value
        for model, estimates in judged.estimates.items()
        for name, found in estimates.items()
    }
    said = "passed" if verdict.passed else "rejected"
    return StageResult(
        metrics=metrics,
        values={"passed": verdict.passed},
        summary={
            "champion": judged.names.get("champion", "none"),
            **{
                name.replace("_", " "): _line(name, judged.estimates)
                for name in judged.estimates["challenger"]
            },
            "gate": said,
            "reasons": "\n".join(
                f"{'+' if reason.passed else '-'} {reason.text}" for reason in verdict.reasons
            ),
        },
    )


def _line(name: str, estimates: Mapping[str, Mapping[str, Estimate]]) -> str:
    """base -> challenger (interval; champion) of one metric."""
    found = estimates["challenger"][name]
    before = f"{estimates['base'][name].value:.3f} -> " if name in estimates["base"] else ""
    aside = f"{found.low:.3f} to {found.high:.3f}"
    if champion := estimates.get("champion", {}).get(name):
        aside += f"; champion {champion.value:.3f}"
    return f"{before}{found.value:.3f} ({aside})"


STAGE = Stage(
    "evaluate",
    EvaluateStageConfig,
    evaluate,
    ("model", "dataset"),
    {"evaluation": "artifact", "report": "html"},
)
