"""Whether tuning made liked answers likelier than disliked ones, against the base.

An answer's log-ratio is log p(answer) of the model less that of the base, in nats; times beta it
is the reward that preference tuning implies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ytrainer_core.evaluation.intervals import Floats, RowValues, row_means
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import Row
from ytrainer_core.scoring.signals import losses_of

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Preferences:
    """Held-out answers, both kinds of them.

    rows: tokenized, labels on the answer alone. liked: [rows]. paired: every liked answer stands
    before the disliked one to the same prompt.
    """

    rows: Sequence[Row]
    liked: Bools
    paired: bool


def answer_logps(
    model: Any, preferences: Preferences, *, max_length: int, batch_tokens: int
) -> Floats:
    """Log-probability of every answer, [rows], in nats."""
    with Progress("preferences", len(preferences.rows)) as progress:
        losses = losses_of(
            model,
            preferences.rows,
            max_length=max_length,
            batch_tokens=batch_tokens,
            progress=progress,
        )
    return np.array([-row.sum(dtype=np.float64) for row in losses])


def preference_scores(ratios: Floats, liked: Bools, *, paired: bool) -> dict[str, RowValues]:
    """preference_accuracy and preference_margin. ratios: log-ratios, [rows], nats.

    Accuracy is the share of (liked, disliked) pairs in which the liked answer has the larger
    log-ratio, ties half; margin the mean log-ratio of liked answers less that of disliked ones.
    Pairs are those that were given, or all that can be formed; NaN where one kind is missing. Of
    all, each row's value is its jackknife pseudo-value: their mean is the metric, and their spread
    its error, although no row has a metric of its own.
    Source: DeLong, DeLong and Clarke-Pearson 1988 (placements of the area under the ROC curve).
    """
    yes, no = ratios[liked], ratios[~liked]
    if not len(yes) or not len(no):
        accuracy = margin = row_means([float("nan")])
    elif paired:
        accuracy = row_means((yes > no) + (yes == no) / 2)
        margin = row_means(yes - no)
    else:
        accuracy = _pseudo_values(_share_below(yes, no), 1 - _share_below(no, yes))
        margin = _pseudo_values(yes - no.mean(), yes.mean() - no)
    return {"preference_accuracy": accuracy, "preference_margin": margin}


def _share_below(values: Floats, others: Floats) -> Floats:
    """For each value the share of the others that are smaller, equal ones half."""
    ordered = np.sort(others)
    below = ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right")
    return below / (2 * len(others))


def _pseudo_values(of_liked: Floats, of_disliked: Floats) -> RowValues:
    """Row values with the mean that both kinds' own values have, weighted by how few a kind is."""
    mean, rows = of_liked.mean(), len(of_liked) + len(of_disliked)
    kinds = [mean + rows / len(kind) * (kind - mean) for kind in (of_liked, of_disliked)]
    return row_means(np.concatenate(kinds))
