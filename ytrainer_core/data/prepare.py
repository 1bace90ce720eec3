"""From files to a corpus that can be trained on: read, check, compare, split, write.

Rows pass through a scratch file on disk, because some rules know their verdict only after the last
row (a contradiction takes out the earlier row too); in memory stay 250 bytes a row.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.config.data import DataConfig
from ytrainer_core.data.checks import (
    Index,
    Verdict,
    compare_rows,
    first_error,
    leakage,
    verdict_reason,
    warnings_of,
)
from ytrainer_core.data.corpus import (
    SPLITS,
    Corpus,
    messages_of,
    rejected_line,
    row_columns,
    row_of,
    row_schema,
    write_corpus,
)
from ytrainer_core.data.formats import Rejected, Row
from ytrainer_core.data.reader import Source, find_sources, read_sources
from ytrainer_core.data.tokenize import (
    BATCH_ROWS,
    Tokenized,
    require_chat_template,
    tokenize_configured,
    truncate,
)
from ytrainer_core.errors import DataError
from ytrainer_core.files import atomic_folder, sha256_file, write_text

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

# Rows held out at most where no validation file is named.
MAX_HELD_OUT = 1000
# Quarantined rows per rule that a failing stage leaves to look at.
SAMPLES_PER_RULE = 20
# Rows, and rules, that one error message names.
_NAMED_ROWS = 5
_NAMED_RULES = 3

_MASKED_RULES = ("no_trained_token", "no_assistant_turn")


@dataclass
class Staged:
    """One split after reading: its rows in a scratch file, and what is known about each.

    Positions count the rows read from 0. A row is out when it has a rule of its own (in the scratch
    file) or a verdict.
    """

    name: str
    path: Path
    read: int = 0
    own_rules: Counter[str] = field(default_factory=Counter)
    warnings: dict[int, tuple[str, ...]] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def rules(self) -> Counter[str]:
        """Quarantined rows by rule."""
        return self.own_rules + Counter(verdict.rule for verdict in self.verdicts.values())

    def clean(self) -> list[int]:
        """Positions of the rows that stay."""
        return [p for p in self.index.positions if p not in self.verdicts]

    def table(self) -> pa.Table:
        """The scratch file, memory-mapped."""
        import pyarrow as pa

        return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()


def prepare_corpus(
    config: DataConfig,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
) -> Corpus:
    """Read, check, split and write the corpus that `config` names.

    tokenizer: the model's, for the rules about tokens (too_long, no_trained_token); None leaves
    them out. seed: of the choice of held-out rows.
    Raises DataError where files cannot be read, or too little is left to train on; samples of the
    quarantined rows are then in `folder`/quarantine.
    """
    sources = _find_all(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        staged = {
            split: _stage(split, sources[split], config, tokenizer, Path(scratch))
            for split in SPLITS
        }
        _compare(staged)
        try:
            _judge(staged, config)
        except DataError as error:
            samples = _write_samples(staged, folder / "quarantine")
            raise DataError(*error.faults, f"Samples of the quarantined rows: {samples}") from error
        held_out = _hold_out(staged, config, seed)
        return _write(folder, staged, held_out, sources)


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


# --- read and check each row ---------------------------------------------------------------------


def _stage(
    name: str,
    sources: Sequence[Source],
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    scratch: Path,
) -> Staged:
    """Read one split into its scratch file, with the verdict of every rule about single rows."""
    import pyarrow as pa

    staged = Staged(name, scratch / f"{name}.arrow")
    schema = row_schema()
    for column in ("raw", "rule", "reason"):
        schema = schema.append(pa.field(column, pa.string()))
    rows = read_sources(sources, config)
    with staged.path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        while batch := list(islice(rows, BATCH_ROWS)):
            checked = _check_batch(batch, staged, config, tokenizer)
            stream.write_batch(pa.record_batch(_staged_columns(batch, checked), schema=schema))
            staged.read += len(batch)
    return staged


def _staged_columns(
    batch: Sequence[Row | Rejected], checked: Sequence[Row | Rejected]
) -> dict[str, list[Any]]:
    rows = [row if isinstance(row, Row) else Row(row.origin, ()) for row in checked]
    rejected = [row if isinstance(row, Rejected) else None for row in checked]
    return row_columns(rows) | {
        "raw": [row.raw for row in batch],
        "rule": [row.rule if row else "" for row in rejected],
        "reason": [row.reason if row else "" for row in rejected],
    }


def _check_batch(
    batch: Sequence[Row | Rejected],
    staged: Staged,
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[Row | Rejected]:
    """The batch with every row that breaks an error rule turned into a Rejected."""
    checked = [_check_row(row) for row in batch]
    if tokenizer is not None:
        checked = _check_tokens(checked, staged, config, tokenizer)
    for position, row in enumerate(checked, start=staged.read):
        if isinstance(row, Rejected):
            staged.own_rules[row.rule] += 1
            continue
        staged.index.add(position, row)
        if warnings := warnings_of(row):
            staged.warnings[position] = staged.warnings.get(position, ()) + warnings
    return checked


def _check_row(row: Row | Rejected) -> Row | Rejected:
    if isinstance(row, Rejected) or (broken := first_error(row)) is None:
        return row
    return Rejected(row.origin, *broken, row.raw)


def _check_tokens(
    rows: Sequence[Row | Rejected],
    staged: Staged,
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Row | Rejected]:
    """Apply the rules about tokens, and note the rows that will be cut."""
    good = [row for row in rows if isinstance(row, Row)]
    if any(row.turns for row in good):
        require_chat_template(tokenizer)
    tokens = iter(_tokenize(good, config, tokenizer))
    # Held-out general rows are measured and not trained, so their beginning serves as well as all.
    cut = config.on_too_long == "truncate" or staged.name == "general"
    checked: list[Row | Rejected] = []
    for position, row in enumerate(rows, start=staged.read):
        if isinstance(row, Rejected):
            checked.append(row)
            continue
        outcome = next(tokens)
        if isinstance(outcome, Tokenized):
            if cut and row.turns and len(outcome.input_ids) > config.max_length:
                staged.warnings[position] = ("truncated",)
                outcome = truncate(outcome, config.max_length)
            broken = _token_error(row, outcome, config)
        else:
            broken = ("template_refused", str(outcome))
        checked.append(Rejected(row.origin, *broken, row.raw) if broken else row)
    return checked


def _tokenize(
    rows: Sequence[Row], config: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> list[Tokenized | DataError]:
    """Each row's tokens, or why it has none."""
    pairs = [(messages_of(row), row.text) for row in rows]
    try:
        return [*tokenize_configured(pairs, tokenizer, config)]
    except DataError as error:
        if len(rows) == 1:
            return [error]
    return [outcome for row in rows for outcome in _tokenize([row], config, tokenizer)]


def _token_error(row: Row, tokens: Tokenized, config: DataConfig) -> tuple[str, str] | None:
    length = len(tokens.input_ids)
    if row.turns and length > config.max_length:  # raw documents are split, not too long
        return "too_long", (
            f"is {length} tokens long, more than data.max_length={config.max_length}. Shorten it, "
            "raise data.max_length, or set data.on_too_long=truncate."
        )
    if not tokens.trained_tokens:
        return "no_trained_token", (
            f"has no token that carries a label (in its first {length} tokens), so nothing of it "
            "would be trained. Look at it with `ytrainer preview`."
        )
    return None


# --- compare rows, judge the whole ---------------------------------------------------------------


def _compare(staged: Mapping[str, Staged]) -> None:
    """Fill in the verdicts that only a look at all rows gives."""
    for split in staged.values():
        split.verdicts = compare_rows(split.index)
    train, validation = staged["train"], staged["validation"]
    remaining = train.index.without(train.verdicts)
    held_out = validation.index.without(validation.verdicts)
    train.verdicts |= leakage(remaining, held_out)


def _judge(staged: Mapping[str, Staged], config: DataConfig) -> None:
    """Raise DataError where what is left must not be trained on."""
    if config.on_invalid == "fail":
        _refuse_any(staged)
    for split in staged.values():
        rules = split.rules()
        if not split.read:
            continue
        if split.name == "train" and sum(rules[name] for name in _MASKED_RULES) == split.read:
            raise DataError(
                f"data.train: no row has a token to train, all {split.read} labels are masked. "
                f"{_first_reasons(staged, split)} Add assistant turns, or look at the rows with "
                "`ytrainer preview`."
            )
        if rules.total() == split.read:
            raise DataError(
                f"data.{split.name}: nothing is left, all {split.read} rows are quarantined "
                f"({_top(rules)}). {_first_reasons(staged, split)} Mend the rows."
            )
        share = rules.total() / split.read
        if share > config.max_dropped:
            raise DataError(
                f"data.{split.name}: {rules.total()} of {split.read} rows ({share:.0%}) are "
                f"quarantined, more than data.max_dropped={config.max_dropped} allows "
                f"({_top(rules)}). {_first_reasons(staged, split)} Mend the rows, or raise "
                "data.max_dropped."
            )


def _refuse_any(staged: Mapping[str, Staged]) -> None:
    bad = [(split, row) for split in staged.values() for row in _rejected(staged, split)]
    if bad:
        shown = (f"{row.origin}: {row.rule}: {row.reason}" for _, row in bad[:SAMPLES_PER_RULE])
        raise DataError(
            f"{len(bad)} rows are invalid and data.on_invalid=fail. Mend them, or set "
            "data.on_invalid=drop. The first are:",
            *shown,
        )


def _top(rules: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in rules.most_common(_NAMED_RULES))


def _first_reasons(staged: Mapping[str, Staged], split: Staged) -> str:
    first = list(islice(_rejected(staged, split), _NAMED_ROWS))
    return " ".join(f"{row.origin}: {row.reason}" for row in first)


def _write_samples(staged: Mapping[str, Staged], folder: Path) -> Path:
    """The first quarantined rows of each rule, one file a rule."""
    samples: dict[str, list[Rejected]] = {}
    for split in staged.values():
        for row in _rejected(staged, split):
            kept = samples.setdefault(row.rule, [])
            if len(kept) < SAMPLES_PER_RULE:
                kept.append(row)
    with atomic_folder(folder) as scratch:
        for rule, rows in samples.items():
            write_text(scratch / f"{rule}.jsonl", "".join(map(rejected_line, rows)))
    return folder


# --- split and write -----------------------------------------------------------------------------


def _hold_out(staged: Mapping[str, Staged], config: DataConfig, seed: int) -> frozenset[int]:
    """Positions of the training rows that become validation rows."""
    if config.validation or not config.validation_fraction:
        return frozenset()
    clean = staged["train"].clean()
    wanted = max(1, min(MAX_HELD_OUT, round(config.validation_fraction * len(clean))))
    return frozenset(random.Random(seed).sample(clean, min(wanted, len(clean) - 1)))


def _write(
    folder: Path,
    staged: Mapping[str, Staged],
    held_out: frozenset[int],
    sources: Mapping[str, Sequence[Source]],
) -> Corpus:
    train, validation, general, replay = (staged[split] for split in SPLITS)
    own = _kept(validation, frozenset(validation.clean()))
    warnings: Counter[str] = Counter()
    for split in staged.values():
        kept = set(split.clean())
        warnings.update(n for p, names in split.warnings.items() if p in kept for n in names)
    return write_corpus(
        folder,
        train=_kept(train, frozenset(train.clean()) - held_out),
        validation=_kept(train, held_out) if held_out else own,
        general=_kept(general, frozenset(general.clean())),
        replay=_kept(replay, frozenset(replay.clean())),
        quarantine=(row for split in staged.values() for row in _rejected(staged, split)),
        manifest={
            "sources": [_describe(s, split) for split in SPLITS for s in sources[split]],
            "counts": {"read": sum(s.read for s in staged.values()), "rules": warnings},
        },
    )


def _describe(source: Source, split: str) -> dict[str, Any]:
    return {
        "path": source.name,
        "sha256": sha256_file(source.path),
        "bytes": source.path.stat().st_size,
        "split": split,
    }


def _records(split: Staged, positions: frozenset[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position, record) of the staged rows at these positions, in file order."""
    import pyarrow as pa

    begin = 0
    for batch in split.table().to_batches():
        wanted = [p for p in range(begin, begin + batch.num_rows) if p in positions]
        if wanted:
            rows = batch.take(pa.array([p - begin for p in wanted], pa.int64()))
            yield from zip(wanted, rows.to_pylist(), strict=True)
        begin += batch.num_rows


def _kept(split: Staged, positions: frozenset[int]) -> Iterator[Row]:
    return (row_of(record) for _, record in _records(split, positions))


def _rejected(staged: Mapping[str, Staged], split: Staged) -> Iterator[Rejected]:
    """The quarantined rows of one split, in file order."""
    own_origin = _origins(split)
    held_out_origin = _origins(staged["validation"])
    out = frozenset(range(split.read)).difference(split.clean())
    for position, record in _records(split, out):
        rule, reason = record["rule"], record["reason"]
        if verdict := split.verdicts.get(position):
            origin_of = held_out_origin if verdict.rule == "leakage" else own_origin
            rule, reason = verdict.rule, verdict_reason(position, verdict, origin_of.__getitem__)
        yield Rejected(record["origin"], rule, reason, record["raw"])


class _origins:
    """Position -> origin, looked up in the scratch file."""

    def __init__(self, split: Staged) -> None:
        self._column = split.table().column("origin")

    def __getitem__(self, position: int) -> str:
        return str(self._column[position].as_py())
