"""The corpus folder: three Arrow files, a quarantine and a manifest, complete or not there.

Rows are written in batches and read memory-mapped, so a corpus may be larger than memory. The
manifest's sha256 is over the kept rows and not over files: the same rows are the same corpus
wherever they lay, and whatever library wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.data.formats import Rejected, Row, Turn
from ytrainer_core.errors import DataError
from ytrainer_core.files import atomic_folder, write_json

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SPLITS = ("train", "validation", "general", "replay")
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"

# Rows of one record batch: what is in memory at a time while writing.
BATCH_ROWS = 1000


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder. The splits have the columns origin, messages and text."""

    folder: Path
    train: datasets.Dataset
    validation: datasets.Dataset
    general: datasets.Dataset
    replay: datasets.Dataset
    manifest: dict[str, Any]


def write_corpus(
    folder: Path,
    *,
    train: Iterable[Row],
    validation: Iterable[Row],
    general: Iterable[Row],
    quarantine: Iterable[Rejected],
    manifest: dict[str, Any],
    replay: Iterable[Row] = (),
) -> Corpus:
    """Write a corpus folder, whole or not at all, and open it.

    The iterables are consumed in the order of SPLITS, then the quarantine. The manifest's
    counts (but for read and the warnings among the rules), file sizes and sha256 are filled in.
    Raises ValueError where kept and quarantined rows are not manifest["counts"]["read"].
    """
    with atomic_folder(folder) as scratch:
        digest = hashlib.sha256()
        counts: dict[str, Any] = dict(manifest["counts"])
        for split, rows in zip(SPLITS, (train, validation, general, replay), strict=True):
            counts[split] = _write_split(scratch / f"{split}.arrow", split, rows, digest)
        by_rule = _write_quarantine(scratch / QUARANTINE, quarantine)
        counts["quarantined"] = by_rule.total()
        counts["rules"] = dict(by_rule + Counter(counts.get("rules", {})))
        _check_sum(counts)
        sizes = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
        whole = {**manifest, "counts": counts, "files": sizes, "sha256": digest.hexdigest()}
        write_json(scratch / MANIFEST, whole)
    return load_corpus(folder)


def _check_sum(counts: dict[str, Any]) -> None:
    kept = sum(counts[split] for split in SPLITS)
    if kept + counts["quarantined"] != counts["read"]:
        raise ValueError(
            f"{kept} kept and {counts['quarantined']} quarantined rows are not the "
            f"{counts['read']} that were read"
        )


def row_schema() -> pa.Schema:
    """The columns of a split."""
    import pyarrow as pa

    message = pa.struct({"role": pa.string(), "content": pa.string()})
    return pa.schema({"origin": pa.string(), "messages": pa.list_(message), "text": pa.string()})


def row_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as the columns of a split."""
    return {
        "origin": [row.origin for row in rows],
        "messages": [messages_of(row) for row in rows],
        "text": [row.text for row in rows],
    }


def messages_of(row: Row) -> list[dict[str, str]]:
    """The turns as chat templates take them."""
    return [{"role": turn.role, "content": turn.content} for turn in row.turns]


def row_of(record: dict[str, Any]) -> Row:
    """A record of a split as a Row again."""
    turns = tuple(Turn(m["role"], m["content"]) for m in record["messages"])
    return Row(record["origin"], turns, record["text"])


def row_texts(dataset: datasets.Dataset) -> Iterator[str]:
    """Every text of a split: raw ones and the contents of messages."""
    for record in dataset:
        yield record["text"]
        for message in record["messages"]:
            yield message["content"]


def raw_text(record: dict[str, Any]) -> str:
    """A stored row as a person reads it: its text, or its messages as JSON."""
    return str(record["text"]) or json.dumps(record["messages"], ensure_ascii=False)


def batched(rows: Iterable[Row], size: int = BATCH_ROWS) -> Iterator[list[Row]]:
    """Lists of at most `size` rows."""
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_split(path: Path, split: str, rows: Iterable[Row], digest: hashlib._Hash) -> int:
    """Write one split, add its rows to the digest, return their number."""
    import pyarrow as pa

    count = 0
    schema = row_schema()
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for batch in batched(rows):
            stream.write_batch(pa.record_batch(row_columns(batch), schema=schema))
            count += len(batch)
            for row in batch:
                turns = [[turn.role, turn.content] for turn in row.turns]
                digest.update(json.dumps([split, turns, row.text]).encode())
                digest.update(b"\n")
    return count


def _write_quarantine(path: Path, rejected: Iterable[Rejected]) -> Counter[str]:
    """Write one JSON object a line; return the number of rows by rule."""
    by_rule: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as file:
        for row in rejected:
            file.write(rejected_line(row))
            by_rule[row.rule] += 1
    return by_rule


def rejected_line(row: Rejected) -> str:
    """A quarantined row as one line of JSON."""
    fields = {"origin": row.origin, "rule": row.rule, "reason": row.reason, "raw": row.raw}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def read_quarantine(folder: Path) -> Iterator[Rejected]:
    """The quarantined rows of a corpus folder, in the order of the files they came from."""
    with (folder / QUARANTINE).open(encoding="utf-8") as file:
        for line in file:
            yield Rejected(**json.loads(line))


def load_corpus(folder: Path) -> Corpus:
    """Open a corpus folder, memory-mapped. Raises DataError where it is damaged or none."""
    manifest = _read_manifest(folder)
    splits = {split: _open_split(folder, split, manifest) for split in SPLITS}
    return Corpus(folder, manifest=manifest, **splits)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder}: is no corpus folder, since it has no {MANIFEST}. Make one with "
            "`ytrainer validate`."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name, size in manifest["files"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise _damaged(folder / name, f"it is not the {size} bytes that were written")
        counts = manifest["counts"]
        if not all(isinstance(counts[split], int) for split in SPLITS):
            raise TypeError("counts are not numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    return dict(manifest)


def _open_split(folder: Path, split: str, manifest: dict[str, Any]) -> datasets.Dataset:
    import datasets as hf
    import pyarrow as pa

    path = folder / f"{split}.arrow"
    try:
        dataset = hf.Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, str(error)) from error
    expected = manifest["counts"][split]
    if len(dataset) != expected or dataset.column_names != row_schema().names:
        raise _damaged(path, f"it holds {len(dataset)} rows, the manifest says {expected}")
    return dataset


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: the corpus is damaged: {why}. Delete the folder and run `ytrainer validate` "
        "again."
    )


def rewrite_train(
    corpus: Corpus, folder: Path, keep: Sequence[int], quarantined: Sequence[Rejected]
) -> Corpus:
    """A new corpus folder with only the training rows at the positions `keep`, in that order.

    quarantined: the other training rows, with their reasons; they join the quarantine.
    Raises ValueError unless every training row is in exactly one of the two.
    """
    if len(set(keep)) != len(keep) or len(keep) + len(quarantined) != len(corpus.train):
        raise ValueError(
            f"{len(keep)} kept (each once) and {len(quarantined)} quarantined rows are not the "
            f"{len(corpus.train)} training rows"
        )
    if not keep:
        raise DataError(
            f"{corpus.folder}: no training row is left of {len(corpus.train)}. "
            "Loosen what drops them; their reasons are in the score report."
        )
    counts = corpus.manifest["counts"]
    before = Counter(row.rule for row in read_quarantine(corpus.folder))
    warnings = Counter(counts["rules"])
    warnings.subtract(before)
    manifest = {**corpus.manifest, "counts": {"read": counts["read"], "rules": +warnings}}
    return write_corpus(
        folder,
        train=_rows_of(corpus.train.select(keep)),
        validation=_rows_of(corpus.validation),
        general=_rows_of(corpus.general),
        replay=_rows_of(corpus.replay),
        quarantine=(row for part in (read_quarantine(corpus.folder), quarantined) for row in part),
        manifest=manifest,
    )


def _rows_of(dataset: datasets.Dataset) -> Iterator[Row]:
    return (row_of(record) for record in dataset)
