"""Scores of one row: how suspicious the model's own signals make it; higher is worse.

Every score is a function of one RowView, in SCORES under the name that score.method takes.
docs/scoring.md says what each one finds and how well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ytrainer_core.errors import YTrainerError
from ytrainer_core.scoring.signals import RowSignals

Floats = npt.NDArray[np.float64]

TINY = 1e-6
"""Standard deviation, in nats, below which signals count as constant."""

LOSS_WINDOW = 5
"""Tokens of the window whose mean certain loss counts: about one wrong word."""

SURPRISE_WINDOW = 2
"""Tokens of the window whose mean surprise counts: a wrong digit, and what follows from it."""

PHRASE_WINDOW = 10
"""Tokens of the longer window: about one step of a calculation, or one clause."""

OPENING_TOKENS = 16
"""Tokens at the beginning of an answer: those that take up the question."""

SOFTMIN_TEMPERATURE = 0.05
"""cleanlab's: tokens whose probability is 0.05 above the least weigh exp(-1) of it."""

_LEAST_PROBABILITY = 1e-30
"""Probability below which a token is as wrong as can be; keeps the logarithm finite."""


@dataclass(frozen=True)
class Answer:
    """The targets of one row. nll, entropy: [targets], nats.

    ends: the last target of every run of adjacent ones, so of every answer of the row.
    free_nll: [targets], nll without the prompt; None where that was not asked for.
    """

    nll: Floats
    entropy: Floats
    ends: npt.NDArray[np.intp]
    free_nll: Floats | None = None

    @classmethod
    def of(cls, row: RowSignals) -> Answer:
        """In double precision. Raises YTrainerError where a signal is not finite."""
        free = row.free_nll
        answer = cls(
            row.nll.astype(np.float64),
            row.entropy.astype(np.float64),
            np.flatnonzero(np.diff(row.positions, append=-1) != 1),
            None if free is None else free.astype(np.float64),
        )
        for values in (answer.nll, answer.entropy, answer.free_nll):
            if values is not None and not np.isfinite(values).all():
                raise YTrainerError(
                    "the model gives a loss or an entropy that is no finite number, so no row can "
                    "be scored. Set model.dtype=float32, or take a model that is not broken."
                )
        return answer

    @property
    def surprise(self) -> Floats:
        """[targets], nats: loss beyond what the model itself expected to lose, its entropy."""
        return self.nll - self.entropy


@dataclass(frozen=True)
class CorpusStatistics:
    """What the corpus is like; means and standard deviations (population), in nats.

    nll, entropy: over all targets. most_uncertain: ln of the vocabulary, the entropy of a model
    that knows nothing. measures: name of what `combined` looks at -> (mean, deviation) over the
    rows that have it.
    """

    nll_mean: float
    nll_std: float
    entropy_mean: float
    entropy_std: float
    most_uncertain: float = math.inf
    measures: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def corpus_statistics(rows: Iterable[RowSignals], vocabulary: int = 0) -> CorpusStatistics:
    """Statistics of a corpus, in one pass that keeps no row; zeros where there is no target.

    vocabulary: entries that the model chooses from; 0 takes the greatest entropy of the corpus
    for its logarithm. Raises YTrainerError where a signal is not finite.
    """
    nll, entropy = _Moments(), _Moments()
    measures: dict[str, _Moments] = {}
    greatest = 0.0
    for row in rows:
        if not row.nll.size:
            continue
        answer = Answer.of(row)
        nll.add(answer.nll)
        entropy.add(answer.entropy)
        greatest = max(greatest, float(answer.entropy.max()))
        for name, value in measures_of(answer).items():
            measures.setdefault(name, _Moments()).add(np.array([value]))
    return CorpusStatistics(
        nll.mean,
        nll.std,
        entropy.mean,
        entropy.std,
        most_uncertain=math.log(vocabulary) if vocabulary > 1 else greatest,
        measures={name: (moments.mean, moments.std) for name, moments in measures.items()},
    )


class _Moments:
    """Mean and standard deviation of numbers that arrive in batches (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Floats) -> None:
        """Take in a batch that is not empty."""
        count, mean = values.size, float(values.mean())
        total, away = self.count + count, mean - self.mean
        self._squares += float(((values - mean) ** 2).sum())
        self._squares += away**2 * self.count * count / total
        self.mean += away * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Population deviation; 0 where nothing was added."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


@dataclass(frozen=True)
class Anomalies:
    """Tokens that stand out. abnormal: [targets]; divergence: [targets], z(nll) - z(entropy)."""

    abnormal: npt.NDArray[np.bool_]
    divergence: Floats

    @property
    def share(self) -> float:
        """Divergence of the abnormal tokens per token of the row."""
        return float(np.abs(self.divergence[self.abnormal]).sum() / len(self.divergence))


@dataclass(frozen=True)
class RowView:
    """All that a score may look at; the row has at least one target.

    within, against_corpus: abnormal tokens by z-scores within the row, and against the corpus.
    """

    answer: Answer
    within: Anomalies
    against_corpus: Anomalies
    corpus: CorpusStatistics


def smooth(values: Floats, window: int) -> Floats:
    """Centred moving average; at the ends over what there is."""
    kernel = np.ones(min(window, len(values)))
    sums = np.convolve(values, kernel, mode="same")
    counts = np.convolve(np.ones_like(values), kernel, mode="same")
    smoothed: Floats = sums / counts
    return smoothed


def z_scores(values: Floats, mean: float, std: float) -> Floats:
    """(values - mean) / std, zero where there is no deviation."""
    scores: Floats = (values - mean) / std if std > TINY else np.zeros_like(values)
    return scores


def _worst_window(values: Floats, window: int) -> float:
    """Greatest mean of `window` adjacent values; of all of them where there are fewer."""
    kernel = np.ones(min(window, len(values)))
    return float((np.convolve(values, kernel, mode="valid") / len(kernel)).max())


def mean_nll(answer: Answer) -> float:
    """Mean nll, nats per token."""
    return float(answer.nll.mean())


def peak_surprise(answer: Answer) -> float:
    """Greatest mean surprise of SURPRISE_WINDOW adjacent tokens, nats."""
    return _worst_window(answer.surprise, SURPRISE_WINDOW)


def phrase_surprise(answer: Answer) -> float:
    """Greatest mean surprise of PHRASE_WINDOW adjacent tokens, nats."""
    return _worst_window(answer.surprise, PHRASE_WINDOW)


def opening_surprise(answer: Answer) -> float:
    """Greatest mean surprise of the first OPENING_TOKENS of an answer of the row, nats."""
    starts = (0, *(answer.ends[:-1] + 1).tolist())
    return max(
        float(answer.surprise[start : min(start + OPENING_TOKENS, end + 1)].mean())
        for start, end in zip(starts, answer.ends.tolist(), strict=True)
    )


def end_surprise(answer: Answer) -> float:
    """Greatest surprise at the last token of an answer of the row, nats."""
    return float(answer.surprise[answer.ends].max())


def peak_nll(answer: Answer) -> float:
    """Greatest nll, nats."""
    return float(answer.nll.max())


MEASURES: dict[str, Callable[[Answer], float]] = {
    "mean_nll": mean_nll,
    "peak_nll": peak_nll,
    "peak_surprise": peak_surprise,
    "phrase_surprise": phrase_surprise,
    "opening_surprise": opening_surprise,
    "end_surprise": end_surprise,
}
"""What `combined` looks at: the whole answer, its worst token, word and phrase, its two ends."""


def measures_of(answer: Answer) -> dict[str, float]:
    """MEASURES of an answer, and log_ifd where the loss without the prompt is there."""
    found = {name: measure(answer) for name, measure in MEASURES.items()}
    if answer.free_nll is not None:
        found["log_ifd"] = log_ifd(answer)
    return found


def log_ifd(answer: Answer) -> float:
    """Mean nll with the prompt minus that without it, nats: what the prompt fails to tell."""
    assert answer.free_nll is not None  # callers ask for it only where it is there
    return float(answer.nll.mean() - answer.free_nll.mean())


def anomaly(row: RowView) -> float:
    """sum |z(nll) - z(entropy)| over abnormal tokens / tokens, z-scores within the row.

    Source: the published scorer, by the project's facts. Departures: lucky tokens are not
    abnormal; rows shorter than score.min_tokens are measured against the corpus.
    """
    return row.within.share


def corpus_anomaly(row: RowView) -> float:
    """As `anomaly`, with z-scores against the corpus: a row all of which is bad stands out too."""
    return row.against_corpus.share


def mean_loss(row: RowView) -> float:
    """Mean nll in nats per token: the logarithm of the perplexity."""
    return mean_nll(row.answer)


def certain_loss(row: RowView) -> float:
    """max over windows of mean l · (1 - H / ln V): loss where the model felt sure.

    Windows of LOSS_WINDOW tokens. Source: the project's facts.
    """
    most = row.corpus.most_uncertain
    certainty = np.clip(1 - row.answer.entropy / most, 0, 1) if most > TINY else 1.0
    return _worst_window(row.answer.nll * certainty, LOSS_WINDOW)


def surprise(row: RowView) -> float:
    """max over windows of mean (l - H): loss beyond what the model itself expected.

    A calibrated model loses H on average, so right answers stay near 0 however hard they are.
    Windows of SURPRISE_WINDOW tokens.
    """
    return peak_surprise(row.answer)


def opening(row: RowView) -> float:
    """Greatest mean l - H of the first OPENING_TOKENS of an answer: it does not take up what was
    asked."""
    return opening_surprise(row.answer)


def ending(row: RowView) -> float:
    """Greatest l - H at the last token of an answer: it ends where the model would go on."""
    return end_surprise(row.answer)


def ifd(row: RowView) -> float:
    """Instruction-following difficulty, ppl(answer | prompt) / ppl(answer): above 1 the prompt
    does not help, so question and answer do not belong together.

    Source: Li et al. 2024, From Quantity to Quality (Cherry LLM), arXiv 2308.12032, eq. 4.
    """
    return math.exp(log_ifd(row.answer))


def self_confidence_min(row: RowView) -> float:
    """-ln of the least probability that a token of the answer has: the greatest nll.

    Source: Wang and Mueller 2022, Detecting Label Errors in Token Classification Data,
    arXiv 2210.03920 (cleanlab's token ranking, min of self-confidence).
    """
    return peak_nll(row.answer)


def self_confidence_softmin(row: RowView) -> float:
    """-ln of the softmin of the tokens' probabilities p: sum p · softmax((1 - p) / T).

    T = SOFTMIN_TEMPERATURE. Source: as self_confidence_min; cleanlab's own default.
    """
    probability = np.exp(-row.answer.nll)
    weights = np.exp((probability.min() - probability) / SOFTMIN_TEMPERATURE)
    soft = float((probability * weights).sum() / weights.sum())
    return -math.log(max(soft, _LEAST_PROBABILITY))


def combined(row: RowView) -> float:
    """sum over `measures_of` of max(0, z): how far the row stands out in the corpus by its whole
    answer, its worst token, word and phrase, its two ends, and, where asked for, its prompt.

    z = (the row's measure - the corpus's mean) / the corpus's deviation, over rows.
    """
    found = 0.0
    for name, value in measures_of(row.answer).items():
        mean, std = row.corpus.measures.get(name, (0.0, 0.0))
        if std > TINY:
            found += max(0.0, (value - mean) / std)
    return found


Score = Callable[[RowView], float]

SCORES: dict[str, Score] = {
    "anomaly": anomaly,
    "corpus_anomaly": corpus_anomaly,
    "mean_loss": mean_loss,
    "certain_loss": certain_loss,
    "surprise": surprise,
    "opening": opening,
    "ending": ending,
    "ifd": ifd,
    "self_confidence_min": self_confidence_min,
    "self_confidence_softmin": self_confidence_softmin,
    "combined": combined,
}
"""By the name that score.method takes."""


def row_scores(row: RowView) -> dict[str, float]:
    """Every score of one row; ifd only where the loss without the prompt is there."""
    return {
        name: score(row)
        for name, score in SCORES.items()
        if name != "ifd" or row.answer.free_nll is not None
    }
