"""What a config names as data becomes files on this machine, each with its sampling rate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ytrainer_core import files
from ytrainer_core.config.data import GREATEST_RATE, LEAST_RATE
from ytrainer_core.data import hub
from ytrainer_core.data.containers import READABLE, container_of
from ytrainer_core.errors import DataError

_S3 = "s3://"
_GLOB_MARKS = "*?["

_Found = list[tuple[str, Path]]
"""Files with the names that rows and errors call them by."""


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus file: the name the config gives it, and where it lies on this machine.

    rate: rows taken of it per row it has; above 1 rows are repeated.
    """

    name: str
    path: Path
    rate: float = 1.0


def find_sources(paths: Sequence[str]) -> list[Source]:
    """The files that paths name: files, globs, folders, s3:// objects and prefixes, hub: data sets.

    Each may end in @RATE, which holds for all of its files. What is remote is fetched below home().
    Raises one DataError with every path that is missing or is no corpus file.
    """
    sources: list[Source] = []
    faults: list[str] = []
    for given in paths:
        try:
            name, rate = _split_rate(given)
            sources += [Source(found, path, rate) for found, path in _files_of(name)]
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(*faults)
    return sources


def _split_rate(given: str) -> tuple[str, float]:
    """'a.jsonl@0.5' -> ('a.jsonl', 0.5); the rate is 1 where none is given."""
    name, _, text = given.rpartition("@")
    if not name or Path(given).expanduser().exists():
        return given, 1.0
    try:
        rate = float(text)
    except ValueError:
        return given, 1.0
    if not LEAST_RATE <= rate <= GREATEST_RATE:
        raise DataError(
            f"{given}: the sampling rate {text} is not between {LEAST_RATE} and "
            f"{GREATEST_RATE:g}. Correct what follows the '@'."
        )
    return name, rate


def _files_of(name: str) -> _Found:
    if name.startswith(_S3):
        return _in_storage(name)
    if name.startswith(hub.PREFIX):
        return [(name, hub.load(name))]
    path = Path(name).expanduser()
    if path.is_dir():
        return _readable(name, "the folder holds no file", path, path.rglob("*"))
    if path.exists():
        if container_of(path) is None:
            raise DataError(
                f"{name}: '{''.join(path.suffixes)}' files cannot be read. Convert it to one of "
                f"{READABLE}."
            )
        return [(name, path)]
    if any(mark in name for mark in _GLOB_MARKS):
        return _matching(name, path)
    raise DataError(
        f"{name}: no such file (looked in {Path.cwd()}). Correct the path in data.train, "
        "data.validation, data.general or data.replay."
    )


def _matching(name: str, path: Path) -> _Found:
    root = Path(path.anchor or ".")
    pattern = str(path.relative_to(path.anchor))
    try:
        found = list(root.glob(pattern))
    except ValueError as error:
        raise DataError(f"{name}: is no pattern of file names ({error}). Correct it.") from error
    return _readable(name, "the pattern matches no file", root, found, path.parts)


def _readable(
    name: str, none: str, root: Path, found: Iterable[Path], named: Collection[str] = ()
) -> _Found:
    """The files among `found` that can be read, sorted. none: what to say where there are none."""
    readable = sorted(
        path for path in found if _is_meant(path.relative_to(root), named) and path.is_file()
    )
    if not readable:
        raise DataError(f"{name}: {none} that can be read. Readable are {READABLE}.")
    return [(str(path), path) for path in readable]


def _is_meant(path: PurePath, named: Collection[str] = ()) -> bool:
    """Whether a file among others is meant: of a known container, and not hidden.

    named: parts of paths that were named and are not hidden therefore.
    """
    hidden = any(part.startswith(".") and part not in named for part in path.parts)
    return container_of(path) is not None and not hidden


def _in_storage(name: str) -> _Found:
    from ytrainer_core import storage

    uris = [name]
    if name.endswith("/") or container_of(PurePath(name)) is None:
        root = name.rstrip("/")
        inside = (stored.uri for stored in storage.list_objects(name))
        uris = sorted(uri for uri in inside if _is_meant(PurePath(uri.removeprefix(root))))
    if not uris:
        raise DataError(f"{name}: no object there can be read. Readable are {READABLE}.")
    cache = files.home() / "cache" / "s3"
    return [(uri, storage.fetch(uri, cache)) for uri in uris]
