"""The gate: may this model replace the one in use? Every reason is a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ytrainer_core.config import GateConfig


@dataclass(frozen=True)
class Reason:
    """One condition of the gate and whether it held."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """passed only where every reason passed."""

    passed: bool
    reasons: list[Reason]


def judge(
    base: Mapping[str, float], tuned: Mapping[str, float], rows: int, config: GateConfig
) -> Verdict:
    """Judge tuned against base metrics (losses in nats) measured on `rows` held-out rows.

    A metric that is not finite fails the gate, whatever the thresholds are.
    """
    reasons = [
        Reason(
            rows >= config.min_rows,
            f"{rows} held-out rows were measured; at least {config.min_rows} are needed.",
        )
    ]
    broken = sorted(name for name, value in tuned.items() if not math.isfinite(value))
    broken += sorted(f"base {name}" for name, value in base.items() if not math.isfinite(value))
    reasons.append(
        Reason(
            not broken,
            f"Not finite: {', '.join(broken)}." if broken else "All metrics are finite.",
        )
    )
    drop = base["target_loss"] - tuned["target_loss"]
    needed = config.min_target_loss_drop
    reasons.append(
        Reason(
            drop > needed,
            f"Target loss {base['target_loss']:.3f} -> {tuned['target_loss']:.3f} nats: fell by "
            f"{drop:.3f}; more than {needed:.3f} is needed.",
        )
    )
    if "general_loss" in tuned:
        rise = tuned["general_loss"] / base["general_loss"] - 1
        most = base["general_loss"] * (1 + config.max_general_loss_rise)
        reasons.append(
            Reason(
                tuned["general_loss"] <= most,
                f"General loss {base['general_loss']:.3f} -> {tuned['general_loss']:.3f} nats: "
                f"{rise:+.1%}; at most {config.max_general_loss_rise:+.1%} is tolerated.",
            )
        )
    if config.min_exact_match:
        got = tuned.get("exact_match", 0.0)
        reasons.append(
            Reason(
                got >= config.min_exact_match,
                f"Exact match {got:.3f}; at least {config.min_exact_match:.3f} is needed.",
            )
        )
    return Verdict(all(reason.passed for reason in reasons), reasons)
