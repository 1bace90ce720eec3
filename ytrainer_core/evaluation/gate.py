"""The gate: may this model replace the one in use? Every reason is a sentence.

Not a metric's value is judged but the worse end of its interval, so that a model passes only
where the rows are enough to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ytrainer_core.config import GateConfig
from ytrainer_core.evaluation.intervals import Difference, Estimate, RowValues
from ytrainer_core.evaluation.metrics import Measured, Scores, Statistics, in_order, metric_of
from ytrainer_core.evaluation.rules import Rule
from ytrainer_core.evaluation.verdict import Reason, Verdict

_SLACK = 1e-9
"""A limit counts as kept where rounding alone exceeds it: 2.2 / 2.0 - 1 is above 0.1 in binary."""

_TOO_WIDE = " The value alone would hold; more held-out rows narrow the interval."


@dataclass(frozen=True)
class Contest:
    """What is judged: the models' scores on the same `rows` held-out rows of the target.

    champion is None where there is none. champion_note: a sentence on why there is none, or on
    what cannot be compared with it; empty where nothing is to be said.
    """

    challenger: Scores
    base: Scores
    champion: Scores | None
    rows: int
    champion_note: str = ""

    @property
    def sides(self) -> dict[str, Scores]:
        """Scores by name of the model."""
        sides = {"challenger": self.challenger, "base": self.base}
        return sides if self.champion is None else {**sides, "champion": self.champion}


def judge(
    contest: Contest, config: GateConfig, rules: Sequence[Rule], statistics: Statistics
) -> Verdict:
    """Judge the challenger; losses are in nats per token.

    A metric that is not finite fails the gate, whatever the thresholds are.
    """
    judging = _Judging(contest, config, statistics)
    reasons = [judging.rows(), judging.finite(), judging.target()]
    if "general_loss" in contest.challenger:
        reasons.append(judging.general())
    if config.min_exact_match:
        reasons.append(judging.exact_match())
    if contest.champion_note:
        reasons.append(Reason(True, contest.champion_note))
    reasons += judging.champion()
    reasons += [judging.rule(rule) for rule in rules]
    return Verdict(all(reason.passed for reason in reasons), reasons)


@dataclass(frozen=True)
class _Judging:
    """The conditions, each as a reason."""

    contest: Contest
    config: GateConfig
    statistics: Statistics

    def rows(self) -> Reason:
        rows, least = self.contest.rows, self.config.min_rows
        return Reason(
            rows >= least, f"{rows} held-out rows were measured; at least {least} are needed."
        )

    def finite(self) -> Reason:
        broken = [
            name if side == "challenger" else f"{side} {name}"
            for side, scores in self.contest.sides.items()
            for name, measured in sorted(scores.items())
            if not _is_finite(measured)
        ]
        said = f"Not finite: {', '.join(broken)}." if broken else "All metrics are finite."
        return Reason(not broken, said)

    def target(self) -> Reason:
        before, after = self._pair("target_loss", self.contest.base)
        if before is None or after is None:
            return Reason(
                False,
                "The target loss was not measured. Give held-out rows with an answer "
                "(data.validation).",
            )
        drop, needed = self.statistics.difference(before, after), self.config.min_target_loss_drop
        return self._reason(
            drop,
            lambda value: value > needed,
            drop.low,
            f"Target loss {before.value:.3f} -> {after.value:.3f} nats: fell by {drop.value:.3f} "
            f"({self._interval(drop, '.3f')}); more than {needed:.3f} is needed.",
        )

    def general(self) -> Reason:
        before, after = self._pair("general_loss", self.contest.base)
        if before is None or after is None:
            return Reason(False, "The general loss was measured of one of both models only.")
        rise = self.statistics.difference(after, before, relative=True)
        most = self.config.max_general_loss_rise
        return self._reason(
            rise,
            lambda value: value <= most + _SLACK,
            rise.high,
            f"General loss {before.value:.3f} -> {after.value:.3f} nats: {rise.value:+.1%} "
            f"({self._interval(rise, '+.1%')}); at most {most:+.1%} is tolerated.",
        )

    def exact_match(self) -> Reason:
        least = self.config.min_exact_match
        measured = self.contest.challenger.get("exact_match")
        if measured is None:
            return Reason(
                False,
                f"Exact match was not measured; at least {least:.3f} is needed. Put exact_match "
                "into evaluate.answers, with evaluate.max_generate_rows above 0.",
            )
        found = self.statistics.estimate(measured)
        return self._reason(
            found,
            lambda value: value >= least - _SLACK,
            found.low,
            f"Exact match {found.value:.3f} ({self._interval(found, '.3f')}); at least "
            f"{least:.3f} is needed.",
        )

    def champion(self) -> list[Reason]:
        """One reason for every metric that both have and that is judged unasked."""
        champion = self.contest.champion or {}
        names = [name for name in in_order(self.contest.challenger) if name in champion]
        return [self._against_champion(name) for name in names if metric_of(name).judged]

    def _against_champion(self, name: str) -> Reason:
        before, after = self._pair(name, self.contest.champion or {})
        assert before is not None and after is not None
        metric, most = metric_of(name), self.config.champion_tolerance
        relative = metric.relative and before.value >= 1  # 5 % of 0.07 nats is noise
        change = self.statistics.difference(after, before, relative=relative)
        form = "+.1%" if relative else "+.3f"
        lower = metric.better == "lower"
        limit = format(most if lower else -most, form)
        return self._reason(
            change,
            (lambda value: value <= most + _SLACK) if lower else (lambda v: v >= -most - _SLACK),
            change.high if lower else change.low,
            f"Against the champion, {_named(name)} {before.value:.3f} -> {after.value:.3f}: "
            f"{change.value:{form}} ({self._interval(change, form)}); {limit} is tolerated.",
        )

    def rule(self, rule: Rule) -> Reason:
        """A rule about a champion holds where there is none."""
        if rule.other == "champion" and self.contest.champion is None:
            return Reason(True, f"Rule '{rule.text}': there is no champion, so it holds.")
        other = {"base": self.contest.base, "champion": self.contest.champion or {}}
        measured = self.contest.challenger.get(rule.metric)
        if measured is None:
            return _not_measured(rule, "the trained model")
        if rule.other and rule.metric not in other[rule.other]:
            return _not_measured(rule, f"the {rule.other}")
        found: Estimate | Difference
        if rule.other:
            with_it = other[rule.other][rule.metric]
            found = self.statistics.difference(measured, _scaled(with_it, rule.factor))
            said = f"{measured.value:.3f} against {with_it.value:.3f}"
            if rule.factor != 1:
                said += f" * {rule.factor:g}"
            said += f", {found.value:+.3f} ({self._interval(found, '+.3f')})"
            limit = f"{rule.offset:+.3f}"
        else:
            found = self.statistics.estimate(measured)
            said = f"{found.value:.3f} ({self._interval(found, '.3f')})"
            limit = f"{rule.offset:.3f}"
        least = rule.at_least
        return self._reason(
            found,
            lambda v: v >= rule.offset - _SLACK if least else v <= rule.offset + _SLACK,
            found.low if least else found.high,
            f"Rule '{rule.text}': {said}; {limit} is the {'least' if least else 'most'}.",
        )

    def _pair(self, name: str, other: Scores) -> tuple[Measured | None, Measured | None]:
        """(other's, the challenger's) values of a metric."""
        return other.get(name), self.contest.challenger.get(name)

    def _interval(self, found: Estimate | Difference, form: str) -> str:
        share = 100 * self.config.confidence
        return f"{share:g}% interval {found.low:{form}} to {found.high:{form}}"

    def _reason(
        self, found: Any, holds: Callable[[float], bool], worse_end: float, text: str
    ) -> Reason:
        """Judge the worse end; NaN holds nowhere."""
        passed = holds(worse_end)
        too_wide = not passed and holds(found.value)
        return Reason(passed, text + _TOO_WIDE if too_wide else text)


def _not_measured(rule: Rule, model: str) -> Reason:
    return Reason(
        False,
        f"Rule '{rule.text}': {rule.metric} of {model} was not measured. Switch it on in the "
        "section evaluate (docs/evaluation.md), or take the rule out of gate.rules.",
    )


def _is_finite(measured: Measured) -> bool:
    if isinstance(measured, Estimate):
        return all(map(math.isfinite, (measured.value, measured.low, measured.high)))
    return math.isfinite(measured.value)


def _scaled(measured: Measured, factor: float) -> Measured:
    if isinstance(measured, RowValues):
        return RowValues(measured.sums * factor, measured.counts)
    ends = (measured.value * factor, measured.low * factor, measured.high * factor)
    return Estimate(*ends, measured.rows)


def _named(name: str) -> str:
    return name.replace("_", " ")
