"""Rows that stay together: those with the same first question, or of one file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ytrainer_core.config import OrderConfig
from ytrainer_core.curriculum.signals import Ints

if TYPE_CHECKING:
    import datasets

# The first place an origin names: that of a row which was joined of several is the first one's.
_FILE = re.compile(r"(.*?):\d+(?::\d+)?(?: \+ |$)", re.DOTALL)

_KEY_BYTES = 16


def group_numbers(rows: datasets.Dataset, config: OrderConfig) -> Ints:
    """[rows]: the number of each row's group, counted in the order of their first rows.

    rows: a split of a corpus. With config.group_by=none every row is alone, and so is, with
    prompt, one that asks nothing: raw text.
    """
    if config.group_by == "none":
        return np.arange(len(rows))
    keys = _files(rows["origin"]) if config.group_by == "file" else _prompts(rows)
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(rows))


def _files(origins: Iterable[str]) -> Iterator[str]:
    for origin in origins:
        found = _FILE.match(origin)
        yield found[1] if found else origin


def _prompts(rows: datasets.Dataset) -> Iterator[Hashable]:
    """Digests of the first questions, so that a million of them fit into memory."""
    for number, row in enumerate(rows.select_columns(["messages"])):
        asked = _first_question(row["messages"])
        if asked is None:
            yield number
        else:
            content = asked.strip().encode("utf-8", "surrogatepass")
            yield hashlib.blake2b(content, digest_size=_KEY_BYTES).digest()


def _first_question(messages: Sequence[Mapping[str, Any]]) -> str | None:
    return next((m["content"] for m in messages if m["role"] == "user"), None)
