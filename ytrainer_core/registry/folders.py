"""A version's files as the folder that was trained: MLflow's parts, side by side again.

MLflow stores weights below peft/ or model/, and the tokenizer in a folder of its own.
from_pretrained() and ytrainer want them side by side.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from ytrainer_core.files import atomic_folder, home, sha256_folder, write_json
from ytrainer_core.registry.layout import ADAPTER_FOLDER, FULL_FOLDER, TOKENIZER_FOLDER
from ytrainer_core.training.model import CARD_NAME, PROBE_NAME
from ytrainer_core.training.parents import ORIGIN_NAME
from ytrainer_core.verify import FILES_TAG

_PARTS = (TOKENIZER_FOLDER, FULL_FOLDER, ADAPTER_FOLDER)
"""Where files are taken from, the last one counts: a full model brings its trained tokenizer."""


def flat_names(registered: Collection[str]) -> dict[str, str]:
    """Name in the trained folder -> name below the registered one, of a version's files."""
    flat: dict[str, str] = {}
    for part in _PARTS:
        names = [name for name in registered if PurePosixPath(name).parent.as_posix() == part]
        flat |= {PurePosixPath(name).name: name for name in names}
    return flat | {name: name for name in (CARD_NAME, PROBE_NAME) if name in registered}


def kept_copy(uri: str, tags: Mapping[str, str]) -> Path | None:
    """The version's folder below home()/cache/models, if it is there and unchanged."""
    registered: dict[str, str] = json.loads(tags.get(FILES_TAG, "{}"))
    folder = _place(uri)
    if not (folder / ORIGIN_NAME).is_file():
        return None
    found = sha256_folder(folder)
    found.pop(ORIGIN_NAME)
    wanted = {flat: registered[name] for flat, name in flat_names(registered).items()}
    return folder if found == wanted else None


def keep_copy(uri: str, registered: Path) -> Path:
    """Copy a version's files flat to home()/cache/models; the folder says which version it is."""
    folder = _place(uri)
    with atomic_folder(folder) as scratch:
        copy_flat(registered, scratch)
        write_json(scratch / ORIGIN_NAME, {"uri": uri})
    return folder


def copy_flat(registered: Path, target: Path) -> None:
    """Copy a version's files from their parts into one folder."""
    files = [file for file in registered.rglob("*") if file.is_file()]
    names = [file.relative_to(registered).as_posix() for file in files]
    for flat, name in flat_names(names).items():
        shutil.copyfile(registered / name, target / flat)


def _place(uri: str) -> Path:
    name, _, number = uri.removeprefix("models:/").rpartition("/")
    return home() / "cache" / "models" / f"{name}-{number}"
