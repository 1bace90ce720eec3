"""From sources to a corpus that can be trained on: read, check, compare, split, sample, write.

Rows pass through shards on disk (`staging.py`), because some rules know their verdict only after
the last row (a contradiction takes out the earlier row too). What was checked is tokenized
already, so the tokens are written along with the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import RuleBook
from ytrainer_core.data.compare import (
    COMPARING_RULES,
    LEAKAGE_RULES,
    Verdict,
    Verdicts,
    compare_rows,
    leakage,
    near_text,
    verdict_reason,
)
from ytrainer_core.data.corpus import (
    SPLITS,
    Corpus,
    SplitDigest,
    rejected_line,
    row_batches,
    row_schema,
    write_corpus,
)
from ytrainer_core.data.formats import Rejected
from ytrainer_core.data.mixing import Positions, held_out, joined, joined_groups, sampled
from ytrainer_core.data.reader import Source, find_sources
from ytrainer_core.data.shards import KINDS, RULE_NUMBERS
from ytrainer_core.data.staging import Staged, Stager, staging_folder, staging_key
from ytrainer_core.data.tokenize import token_path, token_writer
from ytrainer_core.errors import DataError
from ytrainer_core.files import atomic_folder, sha256_file, write_text

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

MEASURED = "general"
"""The split whose rows are measured and never trained."""

_OWN = ("train", "validation")
"""Splits of the own corpus; the others are of whatever shape and language."""

SAMPLES_PER_RULE = 20
"""Rows per rule that a failing stage leaves to look at, and that are kept of every warning."""

_IMBALANCE = "label_imbalance"
_LEAST_LABEL_SHARE = 0.05
"""Share of good or of bad answers in rows for KTO below which the other kind rules the training."""

# Rows, and rules, that one error message names.
_NAMED_ROWS = 5
_NAMED_RULES = 3

_MASKED_RULES = ("no_trained_token", "no_assistant_turn")


@dataclass(frozen=True)
class Prepared:
    """A corpus, and what was learned of it on the way.

    lengths: tokens of each training row, empty without a tokenizer. targets: trained tokens of
    them all. warned: samples of the rows that broke a warning rule and stayed.
    """

    corpus: Corpus
    lengths: np.ndarray[Any, np.dtype[np.int32]]
    targets: int
    warned: Sequence[Rejected]


def prepare_corpus(
    config: DataConfig,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
) -> Corpus:
    """`prepare` for those who want the corpus only."""
    return prepare(config, folder, tokenizer=tokenizer, seed=seed).corpus


def prepare(
    config: DataConfig,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
) -> Prepared:
    """Read, check, split, sample and write the corpus that `config` names.

    tokenizer: the model's, for the rules about tokens (too_long, no_trained_token); None leaves
    them out. seed: of the choice of held-out, sampled and joined rows.
    Raises DataError where sources cannot be read, or too little is left to train on; samples of
    the quarantined rows are then in `folder`/quarantine.
    """
    rules = RuleBook(config)
    sources = _find_all(config)
    digests = {s.path: sha256_file(s.path) for split in SPLITS for s in sources[split]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    named = [(split, s.name, digests[s.path]) for split in SPLITS for s in sources[split]]
    with staging_folder(staging_key(config, tokenizer, named)) as scratch:
        splits = {
            name: _Split(
                Stager(_config_of(name, config), tokenizer, scratch).stage(
                    name, sources[name], measured=name == MEASURED
                ),
                rules,
            )
            for name in SPLITS
        }
        _compare(splits, config, rules)
        try:
            _judge(splits, config)
            chosen = _choose(splits, config, seed)
        except DataError as error:
            samples = _write_samples(splits, folder / "quarantine")
            raise DataError(*error.faults, f"Samples of the quarantined rows: {samples}") from error
        return _write(folder, splits, chosen, config, rules, tokenizer, digests)


def _config_of(split: str, config: DataConfig) -> DataConfig:
    """The config for a split; shape, use and language of the own rows say nothing of others."""
    if split in _OWN:
        return config
    purpose = "sft" if config.purpose == "sft" and split != MEASURED else "auto"
    others = {"format": "auto", "columns": (), "where": (), "languages": (), "purpose": purpose}
    rules = tuple(pair for pair in config.rules if not pair.startswith("language="))
    return config.model_copy(update={**others, "rules": rules})


def _find_all(config: DataConfig) -> dict[str, list[Source]]:
    """The sources of each split; one DataError with the faults of all of them."""
    if not config.train:
        raise DataError("data.train names no file. Set it, e.g. data.train=rows.jsonl")
    found: dict[str, list[Source]] = {}
    faults: list[str] = []
    for split in SPLITS:
        try:
            found[split] = find_sources(getattr(config, split))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(*faults)
    return found


# --- compare rows, judge the whole ---------------------------------------------------------------


class _Split:
    """A staged split with the verdicts that only a look at all rows gives."""

    def __init__(self, staged: Staged, rules: RuleBook) -> None:
        self.staged, self._rules = staged, rules
        self._verdicts: list[Verdicts] = []

    def settle(self, verdicts: Verdicts) -> None:
        """Take in verdicts; the earlier ones about a row stand."""
        self._verdicts.append(verdicts)
        self.__dict__.pop("out", None)
        self.__dict__.pop("warned", None)

    @cached_property
    def out(self) -> Verdicts:
        """Verdicts by rules that are errors: these rows are quarantined."""
        return self._of("error")

    @cached_property
    def warned(self) -> Verdicts:
        """Verdicts by rules that are warnings: these rows stay."""
        return self._of("warning")

    def _of(self, severity: str) -> Verdicts:
        rules = [rule for rule in COMPARING_RULES if self._rules.severity(rule) == severity]
        return Verdicts.concatenate([verdicts.only(rules) for verdicts in self._verdicts])

    def clean(self) -> Positions:
        """Positions of the rows that stay."""
        clean = self.staged.index.positions
        return clean[np.isin(clean, self.out.positions, invert=True)]

    def rules(self) -> Counter[str]:
        """Quarantined rows by rule."""
        return self.staged.own_rules() + self.out.counts()

    def rejected(self, validation: _Split) -> Iterator[Rejected]:
        """The quarantined rows, in file order. validation: what a leak has leaked into."""
        out = np.setdiff1d(np.arange(self.staged.read), self.clean())
        for position, record in zip(out.tolist(), self.staged.records(out), strict=True):
            rule, reason = record["rule"], record["reason"]
            if verdict := self.out.get(position):
                rule, reason = verdict.rule, self.reason(verdict, validation)
            yield Rejected(record["origin"], rule, reason, record["raw"])

    def reason(self, verdict: Verdict, validation: _Split) -> str:
        """A verdict in words."""
        other = validation if verdict.rule in LEAKAGE_RULES else self
        return verdict_reason(verdict, lambda at: other.staged.row(at).origin)


def _compare(splits: Mapping[str, _Split], config: DataConfig, rules: RuleBook) -> None:
    """Fill in the verdicts that only a look at all rows gives."""
    near = config.near_duplicate_similarity

    def texts(split: _Split) -> Callable[[int], str]:
        return lambda position: near_text(split.staged.row(position))

    for split in splits.values():
        found = compare_rows(
            split.staged.index,
            near_similarity=near,
            text_of=texts(split),
            severity=rules.severity,
        )
        split.settle(found)
    train, validation = splits["train"], splits["validation"]
    if validation.staged.read:
        train.settle(
            leakage(
                train.staged.index.without(train.out),
                validation.staged.index.without(validation.out),
                near_similarity=near,
                text_of=texts(train),
                validation_text_of=texts(validation),
                severity=rules.severity,
            )
        )


def _judge(splits: Mapping[str, _Split], config: DataConfig) -> None:
    """Raise DataError where what is left must not be trained on."""
    if config.on_invalid == "fail":
        _refuse_any(splits)
    for name, split in splits.items():
        rules, read = split.rules(), split.staged.read
        if not read:
            continue
        if name == "train" and sum(rules[rule] for rule in _MASKED_RULES) == read:
            raise DataError(
                f"data.train: no row has a token to train, all {read} labels are masked. "
                f"{_first_reasons(splits, split)} Add assistant turns, or look at the rows with "
                "`ytrainer preview`."
            )
        if rules.total() == read:
            raise DataError(
                f"data.{name}: nothing is left, all {read} rows are quarantined "
                f"({_top(rules)}). {_first_reasons(splits, split)} Mend the rows."
            )
        share = rules.total() / read
        if share > config.max_dropped:
            raise DataError(
                f"data.{name}: {rules.total()} of {read} rows ({share:.0%}) are quarantined, more "
                f"than data.max_dropped={config.max_dropped} allows ({_top(rules)}). "
                f"{_first_reasons(splits, split)} Mend the rows, switch a rule with data.rules, or "
                "raise data.max_dropped."
            )


def _refuse_any(splits: Mapping[str, _Split]) -> None:
    bad = [row for split in splits.values() for row in split.rejected(splits["validation"])]
    if bad:
        shown = (f"{row.origin}: {row.rule}: {row.reason}" for row in bad[:SAMPLES_PER_RULE])
        raise DataError(
            f"{len(bad)} rows are invalid and data.on_invalid=fail. Mend them, or set "
            "data.on_invalid=drop. The first are:",
            *shown,
        )


def _top(rules: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in rules.most_common(_NAMED_RULES))


def _first_reasons(splits: Mapping[str, _Split], split: _Split) -> str:
    first = islice(split.rejected(splits["validation"]), _NAMED_ROWS)
    return " ".join(dict.fromkeys(f"{row.origin}: {row.reason}" for row in first))


def _write_samples(splits: Mapping[str, _Split], folder: Path) -> Path:
    """The first quarantined rows of each rule, one file a rule."""
    samples: dict[str, list[Rejected]] = {}
    for split in splits.values():
        for row in split.rejected(splits["validation"]):
            kept = samples.setdefault(row.rule, [])
            if len(kept) < SAMPLES_PER_RULE:
                kept.append(row)
    with atomic_folder(folder) as scratch:
        for rule, rows in samples.items():
            write_text(scratch / f"{rule}.jsonl", "".join(map(rejected_line, rows)))
    return folder


# --- split, sample, join -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chosen:
    """Rows of a split of the corpus: positions in a staged split, copies among them.

    groups: the same positions by the conversation that they are joined into; empty where none is.
    """

    split: str
    positions: Positions
    groups: Sequence[Sequence[int]] = ()


def _choose(splits: Mapping[str, _Split], config: DataConfig, seed: int) -> dict[str, _Chosen]:
    """Which rows each split of the corpus holds. Raises DataError where too few are left."""
    clean = {name: split.clean() for name, split in splits.items()}
    chosen = {}
    if not config.validation and config.validation_fraction:
        train = splits["train"].staged
        ids = np.where(train.of("prompt").any(1)[:, None], train.of("prompt"), train.of("whole"))
        at = clean["train"]
        out = held_out(
            ids[at],
            train.of("source")[at],
            config.validation_fraction,
            config.validation_rows,
            seed,
        )
        clean["train"] = at[~out]
        chosen["validation"] = _Chosen("train", at[out])
    for name, split in splits.items():
        taken = _sampled(split.staged, clean[name], config, seed)
        chosen.setdefault(name, _Chosen(name, taken))
    left = len(chosen["train"].positions)
    if left < max(1, config.min_rows):
        raise DataError(
            f"data.train: {left} rows are left after checks and sampling, "
            f"fewer than data.min_rows={config.min_rows}. Add rows, raise a sampling rate, or "
            "lower data.min_rows."
        )
    if config.join_probability:
        positions = chosen["train"].positions
        groups = _groups(splits["train"].staged, positions, config, seed)
        chosen["train"] = _Chosen("train", positions, groups)
    return chosen


def _sampled(staged: Staged, clean: Positions, config: DataConfig, seed: int) -> Positions:
    """The clean rows of each source, as often as its rate says."""
    source_of, characters = staged.of("source")[clean], staged.of("characters")[clean]
    parts = []
    for number, source in enumerate(staged.sources):
        own = source_of == number
        if not own.any():
            continue
        if source.rate == 1:
            parts.append(clean[own])
            continue
        sizes = characters[own].astype(np.int64) if config.sample_by == "characters" else None
        parts.append(sampled(clean[own], source.rate, seed + number, sizes=sizes))
    return np.concatenate(parts) if parts else clean


def _groups(staged: Staged, positions: Positions, config: DataConfig, seed: int) -> list[list[int]]:
    lengths = staged.of("length")[positions]
    conversation = staged.of("kind")[positions] == KINDS.index("conversation")
    return joined_groups(
        positions,
        lengths.astype(np.int64),
        conversation & (lengths >= 0),
        staged.of("system")[positions],
        config.join_probability,
        config.max_length,
        seed,
    )


# --- write ---------------------------------------------------------------------------------------


def _write(
    folder: Path,
    splits: Mapping[str, _Split],
    chosen: Mapping[str, _Chosen],
    config: DataConfig,
    rules: RuleBook,
    tokenizer: PreTrainedTokenizerBase | None,
    digests: Mapping[Path, str],
) -> Prepared:
    validation = splits["validation"]
    warned, warnings = _warnings(splits)
    train, taken = splits["train"].staged, chosen["train"].positions
    if config.purpose in ("auto", "kto") and rules.severity(_IMBALANCE) != "off":
        warned += _imbalance(train, taken, warnings)
    corpus = write_corpus(
        folder,
        {
            name: _rows(choice, splits[choice.split].staged, name, config, tokenizer)
            for name, choice in chosen.items()
        },
        quarantine=(row for split in splits.values() for row in split.rejected(validation)),
        manifest={
            "sources": _describe(splits, chosen, digests),
            "counts": {
                "read": sum(split.staged.read for split in splits.values()),
                "clean": sum(len(split.clean()) for split in splits.values()),
                "rules": warnings,
                "shapes": dict(sum(train.shapes.values(), Counter())),
                "kinds": _kinds(train, taken),
            },
        },
    )
    counts = corpus.manifest["counts"]
    assert counts["clean"] + counts["quarantined"] == counts["read"], "a row was lost"
    if tokenizer is None:
        return Prepared(corpus, np.empty(0, np.int32), 0, warned)
    lengths = train.of("length")
    groups = chosen["train"].groups  # a joined row has at most the tokens of its parts
    by_row = np.array([lengths[g].sum() for g in groups], np.int32) if groups else lengths[taken]
    return Prepared(corpus, by_row, int(train.of("targets")[taken].sum()), warned)


def _rows(
    choice: _Chosen,
    staged: Staged,
    name: str,
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Iterator[pa.RecordBatch]:
    """The rows of one split of the corpus; their tokens go into the cache on the way."""
    if choice.groups:
        yield from row_batches(_joined_rows(staged, choice.groups))
        return
    names = row_schema().names
    batches = staged.batches(choice.positions)
    if tokenizer is None or name == MEASURED or not len(choice.positions):
        yield from (batch.select(names) for batch in batches)
        return
    digest = SplitDigest(names)
    writer = token_writer(lambda: token_path(digest.whole, tokenizer, config))
    with writer as write, ThreadPoolExecutor(1) as beside:
        for batch in batches:
            rows = batch.select(names)
            written = beside.submit(write, batch)  # while the caller writes the rows
            digest.update(rows)
            yield rows
            written.result()


def _joined_rows(staged: Staged, groups: Sequence[Sequence[int]]) -> Iterator[Any]:
    for group in groups:
        rows = [staged.row(position) for position in group]
        yield rows[0] if len(rows) == 1 else joined(rows)


def _warnings(splits: Mapping[str, _Split]) -> tuple[list[Rejected], Counter[str]]:
    """(samples of each warning, how many rows that stay broke it)."""
    samples: list[Rejected] = []
    found: Counter[str] = Counter()
    for split in splits.values():
        clean = split.clean()
        bits = split.staged.of("warnings")[clean]
        for rule, number in RULE_NUMBERS.items():
            broken = clean[(bits >> np.uint64(number)) & np.uint64(1) == 1]
            found[rule] += len(broken)
            room = SAMPLES_PER_RULE - sum(sample.rule == rule for sample in samples)
            for record in split.staged.records(broken[: max(0, room)]):
                notes = dict(note.split(": ", 1) for note in record["notes"])
                samples.append(Rejected(record["origin"], rule, notes[rule], record["raw"]))
        for position in np.intersect1d(split.warned.positions, clean).tolist():
            verdict = split.warned[position]
            found[verdict.rule] += 1
            if found[verdict.rule] <= SAMPLES_PER_RULE:
                row = next(split.staged.records([position]))
                reason = split.reason(verdict, splits["validation"])
                samples.append(Rejected(row["origin"], verdict.rule, reason, row["raw"]))
    return samples, +found


def _imbalance(staged: Staged, taken: Positions, warnings: Counter[str]) -> list[Rejected]:
    """The warning about rows for KTO of which nearly all have one label."""
    kinds = _kinds(staged, taken)
    good, bad = kinds.get("good", 0), kinds.get("bad", 0)
    if not good + bad or min(good, bad) >= _LEAST_LABEL_SHARE * (good + bad):
        return []
    warnings[_IMBALANCE] = 1
    reason = (
        f"{good} answers are labelled good and {bad} bad; with so few of one kind the other rules "
        "the training. Add rows, or weight the classes."
    )
    return [Rejected("data.train", _IMBALANCE, reason, "")]


def _kinds(staged: Staged, taken: Positions) -> dict[str, int]:
    counts = Counter(staged.of("kind")[taken].tolist())
    return {KINDS[number]: count for number, count in counts.items()}


def _describe(
    splits: Mapping[str, _Split], chosen: Mapping[str, _Chosen], digests: Mapping[Path, str]
) -> list[dict[str, Any]]:
    """Every source with what was read and taken of it."""
    taken: dict[str, Counter[int]] = {name: Counter() for name in splits}
    for choice in chosen.values():
        numbers = splits[choice.split].staged.of("source")[choice.positions]
        taken[choice.split].update(numbers.tolist())
    return [
        {
            "path": source.name,
            "sha256": digests[source.path],
            "bytes": source.path.stat().st_size,
            "split": name,
            "rate": source.rate,
            "rows": int((split.staged.of("source") == number).sum()),
            "taken": taken[name][number],
        }
        for name, split in splits.items()
        for number, source in enumerate(split.staged.sources)
    ]
