"""The corpus folder: an Arrow file per split, a quarantine and a manifest, complete or not there.

Rows are written and read in record batches, so a corpus may be larger than memory. Digests are
over the rows' contents, not over files: the same rows are the same corpus wherever they lay,
whatever library wrote them and in whatever batches.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ytrainer_core.data.formats import Rejected, Row, Turn
from ytrainer_core.errors import DataError
from ytrainer_core.files import atomic_folder, write_json

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

T = TypeVar("T")

SPLITS = ("train", "validation", "general", "replay", "earlier")
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"

# Rows of one record batch: what is in memory at a time while writing.
BATCH_ROWS = 1000


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder. The splits have the columns of `row_schema`."""

    folder: Path
    train: datasets.Dataset
    validation: datasets.Dataset
    general: datasets.Dataset
    replay: datasets.Dataset
    earlier: datasets.Dataset
    manifest: dict[str, Any]


# --- rows as columns -----------------------------------------------------------------------------


def row_schema() -> pa.Schema:
    """The columns of a split: a Row without `raw`."""
    import pyarrow as pa

    message = pa.struct({"role": pa.string(), "content": pa.string(), "trained": pa.bool_()})
    return pa.schema(
        {
            "origin": pa.string(),
            "messages": pa.list_(message),
            "text": pa.string(),
            "label": pa.bool_(),
            "rejected": pa.list_(message),
            "extra": pa.string(),
        }
    )


def row_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as the columns of a split."""
    return {
        "origin": [row.origin for row in rows],
        "messages": _turns_column([row.turns for row in rows]),
        "text": [row.text for row in rows],
        "label": [row.label for row in rows],
        "rejected": _turns_column([row.rejected for row in rows]),
        "extra": [row.extra for row in rows],
    }


def _turns_column(turns: Sequence[Sequence[Turn]]) -> pa.Array:
    """A column of messages, made field by field: three times faster than from dicts."""
    import pyarrow as pa

    flat = [turn for row in turns for turn in row]
    offsets = np.zeros(len(turns) + 1, np.int32)
    np.cumsum([len(row) for row in turns], out=offsets[1:])
    messages = pa.StructArray.from_arrays(
        [
            pa.array([turn.role for turn in flat], pa.string()),
            pa.array([turn.content for turn in flat], pa.string()),
            pa.array([turn.trained for turn in flat], pa.bool_()),
        ],
        names=["role", "content", "trained"],
    )
    return pa.ListArray.from_arrays(pa.array(offsets), messages)


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as the tokenizer takes them."""
    return [{"role": turn.role, "content": turn.content, "trained": turn.trained} for turn in turns]


def row_of(record: Mapping[str, Any]) -> Row:
    """A record of a split as a Row again."""
    turns, rejected = (
        tuple(Turn(m["role"], m["content"], m["trained"]) for m in record[name])
        for name in ("messages", "rejected")
    )
    return Row(record["origin"], turns, record["text"], record["label"], rejected, record["extra"])


def row_texts(dataset: datasets.Dataset) -> Iterator[str]:
    """Every text of a split: raw ones and the contents of messages."""
    for record in dataset:
        yield record["text"]
        for message in record["messages"]:
            yield message["content"]


def raw_text(record: Mapping[str, Any]) -> str:
    """A stored row as a person reads it: its text, or its messages as JSON."""
    messages = [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    return str(record["text"]) or json.dumps(messages, ensure_ascii=False)


def row_batches(rows: Iterable[Row], size: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Record batches of at most `size` rows."""
    import pyarrow as pa

    schema = row_schema()
    for batch in batched(rows, size):
        yield pa.record_batch(row_columns(batch), schema=schema)


def batched(rows: Iterable[T], size: int = BATCH_ROWS) -> Iterator[list[T]]:
    """Lists of at most `size` rows."""
    batch: list[T] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class RowsDigest:
    """sha256 over the contents of columns, the same however the rows are cut into batches.

    Of a column of texts the lengths and the bytes are hashed, of a list its lengths and its
    elements, of a struct its fields; each by itself, and in the end all together.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._parts: dict[str, hashlib._Hash] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch (or of a table of one chunk)."""
        for name in self._columns:
            column = batch.column(name)
            for chunk in getattr(column, "chunks", [column]):
                self._add(name, chunk)

    def _add(self, name: str, array: Any) -> None:
        import pyarrow as pa
        from pyarrow import compute

        if pa.types.is_struct(array.type):
            for field, part in zip(array.type, array.flatten(), strict=True):
                self._add(f"{name}.{field.name}", part)
        elif pa.types.is_list(array.type):
            self._feed(f"{name} lengths", array.value_lengths().fill_null(-1))
            self._add(f"{name}.", array.flatten())
        elif pa.types.is_string(array.type):
            lengths = compute.binary_length(array)
            self._feed(f"{name} lengths", lengths.fill_null(-1))
            _, offsets, data = array.buffers()
            if data is not None and len(array):
                bounds = np.frombuffer(offsets, np.int32)[array.offset :][: len(array) + 1]
                self._hash(name).update(memoryview(data)[bounds[0] : bounds[-1]])
        elif pa.types.is_boolean(array.type):
            self._feed(name, array.cast(pa.int32()).fill_null(-1))
        else:
            self._feed(name, array)

    def _feed(self, name: str, numbers: Any) -> None:
        self._hash(name).update(numbers.to_numpy(zero_copy_only=False).tobytes())

    def _hash(self, name: str) -> hashlib._Hash:
        return self._parts.setdefault(name, hashlib.sha256())

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        whole = hashlib.sha256()
        for name in sorted(self._parts):
            whole.update(f"{name}={self._parts[name].hexdigest()}\n".encode())
        return whole.hexdigest()


class SplitDigest:
    """The digests of a split's rows: of what they hold, and also of where they came from."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._content = RowsDigest([name for name in columns if name != "origin"])
        self._origins = RowsDigest(["origin"])

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch (or of a table)."""
        self._content.update(batch)
        self._origins.update(batch)

    @property
    def content(self) -> str:
        """Equal for the same rows, wherever they lay."""
        return self._content.hexdigest()

    @property
    def whole(self) -> str:
        """Equal for the same rows from the same places."""
        both = self._content.hexdigest() + self._origins.hexdigest()
        return hashlib.sha256(both.encode()).hexdigest()


# --- writing -------------------------------------------------------------------------------------


def write_corpus(
    folder: Path,
    splits: Mapping[str, Iterable[pa.RecordBatch]],
    *,
    quarantine: Iterable[Rejected],
    manifest: Mapping[str, Any],
) -> Corpus:
    """Write a corpus folder, whole or not at all, and open it.

    splits: record batches of `row_schema` by split; those not named are empty. They are consumed
    in the order of SPLITS, then the quarantine. The manifest's counts of splits, of quarantined
    rows and of error rules, file sizes and sha256 are filled in.
    """
    with atomic_folder(folder) as scratch:
        digest = hashlib.sha256()
        whole_rows: dict[str, str] = {}
        counts: dict[str, Any] = dict(manifest["counts"])
        for split in SPLITS:
            path = scratch / f"{split}.arrow"
            counts[split], content, whole_rows[split] = _write_split(path, splits.get(split, ()))
            if counts[split]:
                digest.update(f"{split}={content}\n".encode())
        by_rule = _write_quarantine(scratch / QUARANTINE, quarantine)
        counts["quarantined"] = by_rule.total()
        counts["rules"] = dict(by_rule + Counter(counts.get("rules", {})))
        sizes = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
        whole = {**manifest, "counts": counts, "files": sizes, "sha256": digest.hexdigest()}
        whole["rows"] = whole_rows
        write_json(scratch / MANIFEST, whole)
    return load_corpus(folder)


def _write_split(path: Path, batches: Iterable[pa.RecordBatch]) -> tuple[int, str, str]:
    """Write one split; return its number of rows, the digest of their contents, and that of all
    their columns (with the places they came from)."""
    import pyarrow as pa

    schema = row_schema()
    digest = SplitDigest(schema.names)
    count = 0
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
            digest.update(batch)
            count += batch.num_rows
    return count, digest.content, digest.whole


def digest_of(dataset: datasets.Dataset) -> str:
    """Identity of a split's rows with their origins, which its manifest knows where it is whole."""
    files = [Path(file["filename"]) for file in dataset.cache_files]
    if len(files) == 1 and dataset._indices is None and (files[0].parent / MANIFEST).is_file():
        manifest = _read_manifest(files[0].parent)
        split = files[0].stem
        if manifest["counts"].get(split) == len(dataset):
            return str(manifest["rows"][split])
    digest = SplitDigest([name for name in row_schema().names if name in dataset.column_names])
    for table in dataset.with_format("arrow").iter(BATCH_ROWS):
        digest.update(table)
    return digest.whole


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
    splits = {name: getattr(corpus, name) for name in SPLITS} | {"train": corpus.train.select(keep)}
    return write_corpus(
        folder,
        {name: _batches_of(split) for name, split in splits.items()},
        quarantine=(row for part in (read_quarantine(corpus.folder), quarantined) for row in part),
        manifest={**corpus.manifest, "counts": {**counts, "rules": +warnings}},
    )


def _batches_of(dataset: datasets.Dataset) -> Iterator[pa.RecordBatch]:
    schema = row_schema()
    for table in dataset.with_format("arrow").iter(BATCH_ROWS):
        yield from table.cast(schema).combine_chunks().to_batches()


# --- reading -------------------------------------------------------------------------------------


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
        if not all(isinstance(counts[s], int) and manifest["rows"][s] for s in SPLITS):
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
