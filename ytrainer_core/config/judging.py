"""Knobs of judgement: scoring rows, ordering them, evaluating models, the gate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ytrainer_core.config.base import (
    AtLeastOne,
    Count,
    NonNegative,
    Positive,
    Section,
    Strings,
    split_commas,
)

Share = Annotated[float, Field(ge=0, le=1)]


ScoreMethod = Literal[
    "anomaly",
    "corpus_anomaly",
    "mean_loss",
    "certain_loss",
    "surprise",
    "opening",
    "ending",
    "ifd",
    "self_confidence_min",
    "self_confidence_softmin",
    "combined",
]


class ScoreConfig(Section):
    """How suspicious rows are found from the model's own signals."""

    method: ScoreMethod = "combined"
    """Row score; higher is more suspicious. docs/scoring.md says what each one finds."""

    smoothing_window: AtLeastOne = 3
    """Tokens of the centred moving average over nll and entropy."""

    abnormal_z: Positive = 0.6
    """z-score beyond which a token's nll or entropy counts as high or low."""

    suspicious_entropy_z: float = -1.0
    """Entropy z-score below which a token of above-average nll is suspicious."""

    spans: Literal["surprise", "published"] = "surprise"
    """Which places of a row the report underlines: up to three runs of tokens whose nll exceeds
    their entropy, or runs of abnormal tokens as the published scorer takes them."""

    span_surprise: NonNegative = 2.0
    """Nats by which nll exceeds entropy at each token of a span, where spans is surprise."""

    span_divergence: Positive = 1.96
    """Least peak of z(nll) - z(entropy) of a span of abnormal tokens, where spans is published."""

    min_tokens: AtLeastOne = 4
    """Answers shorter than this are measured against the corpus, not against themselves."""

    folds: Count = 0
    """Parts of the corpus, each read by a model that was tuned on the other parts: it finds wrong
    answers where the model as it is knows nothing of the domain. 2 costs about one training, k
    k - 1 of them; 0 reads with the model as it is."""

    ifd: bool = False
    """Also compute ppl(answer given prompt) / ppl(answer): a second forward pass per row."""

    action: Literal["keep", "flag", "drop"] = "flag"
    """What happens to flagged rows; dropped ones are quarantined with their reason."""

    flag_fraction: Share = 0.05
    """Share of the rows, worst first, that is flagged at most; rows of equal score together."""

    flag_above: NonNegative = 0.0
    """Score above which a row is flagged, in place of flag_fraction; 0 goes by flag_fraction."""

    compare_with: str = ""
    """Second model, for example the tuned one, that is shown beside the first in the report:
    a folder or models:/NAME/VERSION."""

    batch_tokens: AtLeastOne = 8192
    """Tokens per forward pass."""

    @model_validator(mode="after")
    def _folds_can_be_read(self) -> Self:
        if self.folds == 1:
            raise ValueError(
                "score.folds=1 leaves no row to tune on. Set 2 or more, or 0 to read with the "
                "model as it is"
            )
        if self.folds and self.compare_with:
            raise ValueError(
                "score.compare_with sets a model beside the one that reads the rows, and with "
                "score.folds these are several. Set score.folds=0, or leave compare_with out"
            )
        return self


OrderMode = Literal[
    "none",
    "file",
    "random",
    "similarity",
    "filtered",
    "mean_loss",
    "entropy",
    "length",
]


class OrderConfig(Section):
    """In which order training sees the rows."""

    mode: OrderMode = "none"
    """Difficulty that sorts the rows, easy first; file keeps their order, random is the control,
    none leaves shuffling to the trainer."""

    descending: bool = False
    """Hard first."""

    schedule: Literal["sorted", "buckets", "competence"] = "sorted"
    """Strictly by difficulty; shuffled inside buckets of like difficulty; or drawn from a share of
    the rows, easy ones first, that grows with the square root of time."""

    buckets: AtLeastOne = 10
    """Buckets of equally many rows, for schedule=buckets."""

    competence_start: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the rows that schedule=competence begins with."""

    group_by: Literal["none", "prompt", "file"] = "none"
    """Rows that stay together: those with the same first question, or of one file."""

    filtered_min_nll: NonNegative = 3.0
    """Nats above which the mode filtered counts a token."""

    filtered_entropy_split: NonNegative = 1.0
    """Nats of entropy above which such a token counts one half."""


AnswerMetric = Literal[
    "exact_match",
    "normalized_match",
    "token_f1",
    "rouge_l",
    "numeric",
    "json_valid",
    "json_schema",
    "regex",
    "function",
]


class EvaluateConfig(Section):
    """How base, champion and challenger are measured, all on the same rows."""

    answers: Annotated[tuple[AnswerMetric, ...], BeforeValidator(split_commas)] = (
        "exact_match",
        "token_f1",
    )
    """Metrics of the generated answers against the expected ones; docs/evaluation.md explains
    each."""

    json_schema: str = ""
    """File with the JSON schema that answers must fit, for the metric json_schema."""

    regex: str = ""
    """Pattern that must be found in an answer, for the metric regex; with a group, what the group
    matches must be the same in the answer and in the expected one."""

    function: str = ""
    """package.module:name of a function(answer, expected) that returns a number, higher is better,
    for the metric function."""

    choices: Strings = ()
    """JSON Lines files with question, choices and answer: multiple choice by log-likelihood."""

    max_new_tokens: AtLeastOne = 128
    """Longest answer, in tokens."""

    temperature: NonNegative = 0.0
    """0 takes the most likely token; above it answers are sampled, with the stage's seed."""

    max_generate_rows: Count = 200
    """Held-out rows that are answered; 0 generates none."""

    max_general_rows: Count = 50
    """Rows of the general set, conversations only, that are answered as well."""

    drift_rows: Count = 100
    """Rows of the target, and as many of the general set, on which the base's token distributions
    are compared with the tuned model's; 0 compares none."""

    champion: str = "@champion"
    """Model that the new one must not fall behind: an alias of registry.name, models:/NAME/3, or a
    folder. Empty, or an alias that nobody holds, compares with the base alone; where there is a
    champion, promotion then needs --force."""

    lm_eval: Strings = ()
    """Tasks of lm-evaluation-harness (pip install 'ytrainer[lm-eval]'), by name."""

    lm_eval_folder: str = ""
    """Folder with YAML files of tasks of your own."""

    lm_eval_limit: Count = 0
    """Documents of each of these tasks at most; 0 takes all."""

    resamples: AtLeastOne = 1000
    """Bootstrap resamples of rows behind every interval."""

    batch_tokens: AtLeastOne = 8192
    """Tokens per forward pass."""


class GateConfig(Section):
    """What a tuned model must show before it may be promoted."""

    min_rows: AtLeastOne = 20
    """Held-out target rows below which no verdict is trusted."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the resamples that an interval holds; the worse end of it is judged."""

    min_target_loss_drop: float = 0.0
    """Nats per token by which the target loss must fall below the base's."""

    max_general_loss_rise: NonNegative = 0.10
    """Relative rise of the general loss over the base's that is tolerated."""

    min_exact_match: Share = 0.0
    """Least share of held-out rows answered exactly."""

    champion_tolerance: NonNegative = 0.05
    """How far a metric may fall behind the champion's: relative for losses of at least one nat,
    in nats for smaller ones, absolute for shares."""

    rules: Strings = ()
    """Further conditions, such as 'numeric >= 0.6', 'rouge_l >= base + 0.05' or
    'target_loss <= champion * 1.02'."""
